// epoll_client FIRST_PORT PORTS
//
// The practical limit of a round: one epoll loop over kept connections that finds the end of each answer and does
// nothing with it. For each line on standard input, one round; prints `wall_us cpu_us answers`.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS_MAX = 512 };

static const char REQUEST[] = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

static double microseconds(clockid_t clock) {
  struct timespec time;
  clock_gettime(clock, &time);
  return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

static int connect_to(int port) {
  int one = 1, descriptor = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (connect(descriptor, (void *)&address, sizeof address)) {
    fprintf(stderr, "connect to port %d: %s\n", port, strerror(errno));
    exit(1);
  }
  return descriptor;
}

int main(int count, char **words) {
  if (count != 3) {
    fprintf(stderr, "usage: epoll_client FIRST_PORT PORTS\n");
    return 2;
  }
  int first_port = atoi(words[1]), ports = atoi(words[2]), epoll = epoll_create1(0);
  int *descriptors = calloc(ports, sizeof *descriptors), *received = calloc(ports, sizeof *received),
      *expected = calloc(ports, sizeof *expected);
  if (!descriptors || !received || !expected) return 1;
  for (int i = 0; i < ports; i++) {
    descriptors[i] = connect_to(first_port + i);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
    epoll_ctl(epoll, EPOLL_CTL_ADD, descriptors[i], &event);
  }
  char line[64];
  struct epoll_event events[EVENTS_MAX];
  while (fgets(line, sizeof line, stdin)) {
    double start = microseconds(CLOCK_MONOTONIC), cpu = microseconds(CLOCK_PROCESS_CPUTIME_ID);
    int answers = 0;
    for (int i = 0; i < ports; i++) {
      received[i] = expected[i] = 0;
      if (write(descriptors[i], REQUEST, sizeof REQUEST - 1) != sizeof REQUEST - 1) return 1;
    }
    while (answers < ports) {
      int ready = epoll_wait(epoll, events, EVENTS_MAX, 10000);
      if (ready <= 0) break;
      for (int k = 0; k < ready; k++) {
        int i = events[k].data.u32;
        char answer[4096];
        ssize_t length = read(descriptors[i], answer, sizeof answer - 1);
        if (length <= 0) return 1;
        if (!expected[i]) {
          answer[length] = 0;
          char *end = strstr(answer, "\r\n\r\n"), *field = strcasestr(answer, "content-length:");
          if (end && field) expected[i] = (int)(end - answer) + 4 + atoi(field + 15);
        }
        received[i] += length;
        if (expected[i] && received[i] >= expected[i]) answers++;
      }
    }
    printf("%.1f %.1f %d\n", microseconds(CLOCK_MONOTONIC) - start, microseconds(CLOCK_PROCESS_CPUTIME_ID) - cpu, answers);
    fflush(stdout);
  }
}
