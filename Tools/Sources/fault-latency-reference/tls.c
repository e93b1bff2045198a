#include "reference.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

// The engine's rules: TLS 1.3 alone, a certificate of the authority on both sides, and its order of
// ciphers, so that both seal with the same one.
static SSL_CTX *make_context(const char *directory, int is_server) {
  char authority[4096], certificate[4096], key[4096];
  SSL_CTX *context = SSL_CTX_new(is_server ? TLS_server_method() : TLS_client_method());
  snprintf(authority, sizeof authority, "%s/ca.pem", directory);
  snprintf(certificate, sizeof certificate, "%s/certificate.pem", directory);
  snprintf(key, sizeof key, "%s/key.pem", directory);
  if (!context || SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_ciphersuites(context,
        "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256") != 1 ||
      SSL_CTX_set1_groups_list(context, "X25519:P-256") != 1 ||
      SSL_CTX_load_verify_locations(context, authority, NULL) != 1 ||
      SSL_CTX_use_certificate_chain_file(context, certificate) != 1 ||
      SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1)
    fail_tls(directory);
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
  SSL_CTX_set_num_tickets(context, 0);
  SSL_CTX_set_mode(context, SSL_MODE_AUTO_RETRY);
  // One call on the socket brings a record with its header.
  SSL_CTX_set_read_ahead(context, 1);
  return context;
}

void start_tls(struct link *link, const char *directory, int is_server) {
  // OpenSSL writes without MSG_NOSIGNAL.
  signal(SIGPIPE, SIG_IGN);
  SSL_CTX *context = make_context(directory, is_server);
  link->tls = SSL_new(context);
  SSL_CTX_free(context);
  if (!link->tls || SSL_set_fd(link->tls, link->fd) != 1) fail_tls("SSL_new");
  if ((is_server ? SSL_accept(link->tls) : SSL_connect(link->tls)) != 1) fail_tls("handshake");
}

void fail_tls(const char *what) {
  fprintf(stderr, "fault-latency-reference: %s: ", what);
  ERR_print_errors_fp(stderr);
  exit(1);
}

void send_all_tls(struct link *link, const void *bytes, size_t length) {
  size_t sent;
  // Blocking, and without partial writes: all of it or an error.
  if (length > 0 && SSL_write_ex(link->tls, bytes, length, &sent) != 1) fail_tls("SSL_write");
}

int receive_all_tls(struct link *link, void *bytes, size_t length) {
  char *next = bytes;
  while (length > 0) {
    size_t got;
    if (SSL_read_ex(link->tls, next, length, &got) != 1) {
      // As without TLS: a peer that is done closes, with or without a goodbye.
      if (next == (char *)bytes) return 0;
      fail_tls("SSL_read");
    }
    next += got;
    length -= got;
  }
  return 1;
}
