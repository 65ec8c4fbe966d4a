// server ADDRESS FIRST_PORT PORTS CERTIFICATE KEY
//
// The sample server of the skew comparison: it says from outside when each port could act. PORTS ports from FIRST_PORT speak
// HTTP/1.1, the PORTS ports behind them HTTP/1.1 over TLS 1.3, and the first PORTS also take datagrams. One epoll loop; every
// request is answered at once with the same small document.
//
// Of each request the kernel's receive timestamp (SO_TIMESTAMPNS) of the segment that completed it is kept: taken where the
// network hands the segment over, before any process runs; with TLS beneath it, of the record that completed the request. A
// segment that came before an earlier one does not complete anything: where segments of a request came out of order
// (tcpi_rcv_ooopack), the instant at which it was read counts instead.
//
// Standard input steers: `begin` forgets what arrived and prints `begun`; `end` prints `PORTS_SEEN SPREAD_NS ACTED_SPREAD_NS
// OUT_OF_ORDER`: from the first arrival to the last, the same of the instants at which this program had read the requests, and
// how many came out of order. Datagrams are not answered: `end` waits for PORTS of them, or until none has come for a while.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { DESCRIPTORS_MAX = 65536, EVENTS_MAX = 512, PORTS_MAX = 1024, SEGMENT_MAX = 16384, QUIET_MS = 100 };
enum kind { UNKNOWN, CONTROL, LISTENER, DATAGRAMS, CONNECTION };

static const char RESPONSE[] =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n"
    "Connection: keep-alive\r\n\r\n{\"id\":12345}";
static const char HEAD_END[] = "\r\n\r\n";

static struct known {
  enum kind kind;
  int place, is_tls, matched;
  unsigned out_of_order;
  SSL *tls;
} known[DESCRIPTORS_MAX];

// What this round has shown, a place a port: plain ports, TLS ports, datagram ports.
static struct {
  int64_t arrived_ns[3 * PORTS_MAX], acted_ns[3 * PORTS_MAX];
  int seen, out_of_order;
} current;

static SSL_CTX *tls_context;
static int epoll, ports, is_ending;

static int64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_REALTIME, &time);
  return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void fail(const char *what) {
  fprintf(stderr, "server: %s: %s\n", what, strerror(errno));
  exit(1);
}

static void watch(int descriptor, enum kind kind, int place) {
  if (descriptor < 0 || descriptor >= DESCRIPTORS_MAX) fail("descriptor");
  known[descriptor] = (struct known){.kind = kind, .place = place};
  struct epoll_event event = {.events = EPOLLIN, .data.fd = descriptor};
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event)) fail("epoll");
}

static void forget(int descriptor) {
  SSL_free(known[descriptor].tls);
  known[descriptor] = (struct known){0};
  close(descriptor);
}

static int open_port(const char *address, int port, int type) {
  int one = 1, descriptor = socket(AF_INET, type | SOCK_NONBLOCK, 0);
  setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  setsockopt(descriptor, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one);
  struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons(port)};
  if (inet_pton(AF_INET, address, &name.sin_addr) != 1) fail(address);
  if (bind(descriptor, (void *)&name, sizeof name)) fail("bind");
  if (type == SOCK_STREAM && listen(descriptor, 4096)) fail("listen");
  return descriptor;
}

static void note(int place, int64_t arrived_ns, int64_t acted_ns) {
  if (!current.arrived_ns[place]) current.seen++;
  // Of a port that is asked twice in a round (connections used anew) the last request counts.
  current.arrived_ns[place] = arrived_ns;
  current.acted_ns[place] = acted_ns;
}

static int64_t spread(const int64_t *instants) {
  int64_t first = INT64_MAX, last = 0;
  for (int i = 0; i < 3 * ports; i++) {
    if (!instants[i]) continue;
    if (instants[i] < first) first = instants[i];
    if (instants[i] > last) last = instants[i];
  }
  return last ? last - first : 0;
}

static void report(void) {
  is_ending = 0;
  printf("%d %lld %lld %d\n", current.seen, (long long)spread(current.arrived_ns), (long long)spread(current.acted_ns),
         current.out_of_order);
  fflush(stdout);
}

static void obey(void) {
  char line[256];
  ssize_t length = read(0, line, sizeof line - 1);
  if (length <= 0) exit(0);
  line[length] = 0;
  if (!strncmp(line, "begin", 5)) {
    memset(&current, 0, sizeof current);
    printf("begun\n");
    fflush(stdout);
  } else {
    is_ending = 1;
    if (current.seen >= ports) report();
  }
}

static void accept_all(int listener) {
  int descriptor, one = 1;
  while ((descriptor = accept4(listener, 0, 0, SOCK_NONBLOCK)) >= 0) {
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(descriptor, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one);
    watch(descriptor, CONNECTION, known[listener].place);
    if (!known[listener].is_tls) continue;
    SSL *tls = SSL_new(tls_context);
    SSL_set_bio(tls, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    SSL_set_accept_state(tls);
    known[descriptor].tls = tls;
  }
}

// What came, and the timestamp of the segment that its last byte came in.
static ssize_t receive(int descriptor, char *bytes, int64_t *arrived_ns) {
  char control[256];
  struct iovec slice = {bytes, SEGMENT_MAX};
  struct msghdr message = {.msg_iov = &slice, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  ssize_t length = recvmsg(descriptor, &message, 0);
  for (struct cmsghdr *item = CMSG_FIRSTHDR(&message); length > 0 && item; item = CMSG_NXTHDR(&message, item)) {
    if (item->cmsg_level != SOL_SOCKET || item->cmsg_type != SO_TIMESTAMPNS) continue;
    struct timespec time;
    memcpy(&time, CMSG_DATA(item), sizeof time);
    *arrived_ns = time.tv_sec * 1000000000LL + time.tv_nsec;
  }
  return length;
}

// Whether these bytes complete a request; clients send no body.
static int completes(struct known *connection, const char *bytes, size_t length) {
  int found = 0;
  for (size_t i = 0; i < length; i++) {
    if (bytes[i] != HEAD_END[connection->matched]) connection->matched = bytes[i] == HEAD_END[0];
    else if (++connection->matched == 4) found = 1, connection->matched = 0;
  }
  return found;
}

// Passes what came through TLS. Whether it completed a request; -1 if the connection is of no use.
static int unseal(struct known *connection, const char *bytes, size_t length) {
  int found = 0, count;
  char clear[SEGMENT_MAX];
  BIO_write(SSL_get_rbio(connection->tls), bytes, (int)length);
  while ((count = SSL_read(connection->tls, clear, sizeof clear)) > 0) found |= completes(connection, clear, count);
  int error = SSL_get_error(connection->tls, count);
  ERR_clear_error();
  return error == SSL_ERROR_WANT_READ ? found : -1;
}

// Sends what TLS has made. Whether all of it went.
static int flush_tls(int descriptor, SSL *tls) {
  char sealed[SEGMENT_MAX];
  int count;
  while ((count = BIO_read(SSL_get_wbio(tls), sealed, sizeof sealed)) > 0)
    if (send(descriptor, sealed, count, MSG_NOSIGNAL) != count) return 0;
  return 1;
}

static int is_out_of_order(int descriptor) {
  struct tcp_info info = {0};
  socklen_t size = sizeof info;
  getsockopt(descriptor, IPPROTO_TCP, TCP_INFO, &info, &size);
  unsigned before = known[descriptor].out_of_order;
  known[descriptor].out_of_order = info.tcpi_rcv_ooopack;
  return info.tcpi_rcv_ooopack != before;
}

static void serve(int descriptor) {
  struct known *connection = &known[descriptor];
  char bytes[SEGMENT_MAX];
  int64_t arrived_ns = 0;
  ssize_t length = receive(descriptor, bytes, &arrived_ns);
  if (length <= 0) {
    if (length == 0 || errno != EAGAIN) forget(descriptor);
    return;
  }
  int found = connection->tls ? unseal(connection, bytes, length) : completes(connection, bytes, length);
  int64_t acted_ns = now_ns();
  if (found < 0) {
    flush_tls(descriptor, connection->tls);
    forget(descriptor);
    return;
  }
  int sent = 1, size = sizeof RESPONSE - 1;
  if (connection->tls) {
    if (found) SSL_write(connection->tls, RESPONSE, size);
    sent = flush_tls(descriptor, connection->tls);
  } else if (found) {
    sent = send(descriptor, RESPONSE, size, MSG_NOSIGNAL) == size;
  }
  if (found) {
    int out_of_order = is_out_of_order(descriptor);
    current.out_of_order += out_of_order;
    note(connection->place, out_of_order || !arrived_ns ? acted_ns : arrived_ns, acted_ns);
  }
  if (!sent) forget(descriptor);
}

static void take_datagram(int descriptor) {
  char bytes[SEGMENT_MAX];
  int64_t arrived_ns = 0;
  if (receive(descriptor, bytes, &arrived_ns) > 0) note(known[descriptor].place, arrived_ns, now_ns());
}

int main(int count, char **words) {
  if (count != 6 || (ports = atoi(words[3])) < 1 || ports > PORTS_MAX) {
    fprintf(stderr, "usage: server ADDRESS FIRST_PORT PORTS CERTIFICATE KEY\n");
    return 2;
  }
  tls_context = SSL_CTX_new(TLS_server_method());
  SSL_CTX_set_min_proto_version(tls_context, TLS1_3_VERSION);
  if (SSL_CTX_use_certificate_file(tls_context, words[4], SSL_FILETYPE_PEM) != 1 ||
      SSL_CTX_use_PrivateKey_file(tls_context, words[5], SSL_FILETYPE_PEM) != 1) {
    ERR_print_errors_fp(stderr);
    return 1;
  }
  epoll = epoll_create1(0);
  watch(0, CONTROL, 0);
  int first_port = atoi(words[2]);
  for (int i = 0; i < 2 * ports; i++) {
    int descriptor = open_port(words[1], first_port + i, SOCK_STREAM);
    watch(descriptor, LISTENER, i);
    known[descriptor].is_tls = i >= ports;
  }
  for (int i = 0; i < ports; i++) watch(open_port(words[1], first_port + i, SOCK_DGRAM), DATAGRAMS, 2 * ports + i);
  printf("ready\n");
  fflush(stdout);
  struct epoll_event events[EVENTS_MAX];
  for (;;) {
    int ready = epoll_wait(epoll, events, EVENTS_MAX, is_ending ? QUIET_MS : -1);
    for (int i = 0; i < ready; i++) {
      int descriptor = events[i].data.fd;
      switch (known[descriptor].kind) {
        case CONTROL: obey(); break;
        case LISTENER: accept_all(descriptor); break;
        case DATAGRAMS: take_datagram(descriptor); break;
        case CONNECTION: serve(descriptor); break;
        case UNKNOWN: break;
      }
    }
    if (is_ending && (ready <= 0 || current.seen >= ports)) report();
  }
}
