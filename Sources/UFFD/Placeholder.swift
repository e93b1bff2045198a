internal import Pages
