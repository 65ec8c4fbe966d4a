// floor ADDRESS FIRST_PORT PORTS KIND
//
// How closely anything can release over PORTS connections: a bare loop of `send`. KIND `loop`: kept connections, each with all
// but the last byte of its request sent before; the loop sends the last bytes. KIND `datagrams`: one datagram a port, not
// answered: what the network alone does to single packets. For each line on standard input one round; prints the answers.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { WAIT_MS = 30000 };

static const char REQUEST[] = "GET / HTTP/1.1\r\nHost: server\r\n\r\n";

static int connect_to(const char *address, int port, int type) {
  int one = 1, descriptor = socket(AF_INET, type, 0);
  if (type == SOCK_STREAM) setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons(port)};
  if (inet_pton(AF_INET, address, &name.sin_addr) != 1 || connect(descriptor, (void *)&name, sizeof name)) {
    fprintf(stderr, "floor: connect to port %d: %s\n", port, strerror(errno));
    exit(1);
  }
  return descriptor;
}

// How many connections have had their answer: it begins with H and ends with }.
static int answers(struct pollfd *waiting, int ports) {
  int found = 0;
  while (found < ports && poll(waiting, ports, WAIT_MS) > 0) {
    for (int i = 0; i < ports; i++) {
      char answer[4096];
      if (!(waiting[i].revents & (POLLIN | POLLHUP | POLLERR))) continue;
      ssize_t length = recv(waiting[i].fd, answer, sizeof answer, MSG_DONTWAIT);
      if (length <= 0) return found;
      if (answer[length - 1] != '}') continue;
      found++;
      waiting[i].events = 0;
    }
  }
  return found;
}

int main(int count, char **words) {
  int is_loop = count == 5 && !strcmp(words[4], "loop");
  if (count != 5 || (!is_loop && strcmp(words[4], "datagrams"))) {
    fprintf(stderr, "usage: floor ADDRESS FIRST_PORT PORTS loop|datagrams\n");
    return 2;
  }
  int first_port = atoi(words[2]), ports = atoi(words[3]);
  struct pollfd *waiting = calloc(ports, sizeof *waiting);
  if (!waiting) return 1;
  for (int i = 0; i < ports; i++) waiting[i].fd = connect_to(words[1], first_port + i, is_loop ? SOCK_STREAM : SOCK_DGRAM);
  const size_t last = sizeof REQUEST - 2;
  char line[64];
  while (fgets(line, sizeof line, stdin)) {
    if (is_loop) {
      for (int i = 0; i < ports; i++) {
        waiting[i].events = POLLIN;
        if (send(waiting[i].fd, REQUEST, last, 0) != (ssize_t)last) return 1;
      }
    }
    for (int i = 0; i < ports; i++) send(waiting[i].fd, REQUEST + last, 1, 0);
    printf("%d\n", is_loop ? answers(waiting, ports) : ports);
    fflush(stdout);
  }
}
