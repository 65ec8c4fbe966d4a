// sender PORT CONNECTIONS MESSAGES [RATE]
//
// Sends numbered lines of JSON, 64 bytes each with the line end, over TCP to loopback. Without RATE as fast as they are
// taken, in large writes, every connection an equal part; with RATE (messages a second) on a fixed schedule: message
// number N (from 0) is due at the first instant + N / RATE, and one that is late is sent at once. Prints
// `first_ns last_ns late_ns_max`: before the first byte and after the last one was handed over (CLOCK_MONOTONIC), and
// by how much the latest message missed its instant. Then waits for the end of its standard input before it closes.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MESSAGE_BYTES = 64, EVENTS_MAX = 256, BUFFER_MESSAGES_MAX = 4096, BUFFER_MESSAGES_MIN = 256 };

// Numbers begin here, so that all have the same width.
static const int64_t NUMBER_FIRST = 100000000;

struct connection {
  int descriptor;
  int64_t next, end;     // numbers still to be written into the buffer
  size_t position, used; // bytes of the buffer
  char *buffer;
};

static int64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void fail(const char *what) {
  fprintf(stderr, "sender: %s: %s\n", what, strerror(errno));
  exit(1);
}

// One message: an integer, a decimal, a truth value (one of sixteen is false) and a text.
static void write_message(char *to, int64_t number) {
  static const char VALID[] = "{\"n\":100000000,\"celsius\":20.25,\"valid\":true,\"name\":\"pump-0000\"}\n";
  static const char INVALID[] = "{\"n\":100000000,\"celsius\":20.2,\"valid\":false,\"name\":\"pump-0000\"}\n";
  _Static_assert(sizeof VALID - 1 == MESSAGE_BYTES && sizeof INVALID - 1 == MESSAGE_BYTES, "64 bytes");
  memcpy(to, number % 16 ? VALID : INVALID, MESSAGE_BYTES);
  int64_t rest = NUMBER_FIRST + number;
  for (char *digit = to + 13; digit > to + 4; digit--, rest /= 10) *digit = '0' + rest % 10;
  uint32_t mixed = (uint32_t)number * 2654435761u;
  to[26] = '0' + (mixed >> 28) % 10;
  to[28] = '0' + (mixed >> 20) % 10;
  rest = (mixed >> 8) % 1000;
  for (char *digit = to + 60; digit > to + 57; digit--, rest /= 10) *digit = '0' + rest % 10;
}

static int connect_to(int port) {
  int one = 1, descriptor = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (descriptor < 0 || connect(descriptor, (void *)&address, sizeof address)) fail("connect");
  setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  return descriptor;
}

static void send_all(struct connection *connections, int count, int capacity) {
  int epoll = epoll_create1(0), open = 0;
  for (int i = 0; i < count; i++) {
    if (connections[i].next == connections[i].end) continue;
    fcntl(connections[i].descriptor, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLOUT, .data.u32 = i};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, connections[i].descriptor, &event)) fail("epoll");
    open++;
  }
  struct epoll_event events[EVENTS_MAX];
  while (open) {
    int ready = epoll_wait(epoll, events, EVENTS_MAX, -1);
    for (int k = 0; k < ready; k++) {
      struct connection *one = &connections[events[k].data.u32];
      if (one->position == one->used) {
        one->position = one->used = 0;
        for (int i = 0; i < capacity && one->next < one->end; i++, one->used += MESSAGE_BYTES)
          write_message(one->buffer + one->used, one->next++);
      }
      ssize_t written = write(one->descriptor, one->buffer + one->position, one->used - one->position);
      if (written < 0 && errno != EAGAIN) fail("write");
      if (written > 0) one->position += written;
      if (one->position == one->used && one->next == one->end) {
        epoll_ctl(epoll, EPOLL_CTL_DEL, one->descriptor, NULL);
        open--;
      }
    }
  }
}

static int64_t send_on_schedule(struct connection *one, int64_t first_ns, double rate) {
  int64_t late_ns_max = 0;
  while (one->next < one->end) {
    int64_t due_ns = first_ns + (int64_t)(one->next * 1e9 / rate), now = now_ns();
    if (now < due_ns) {
      struct timespec until = {.tv_sec = due_ns / 1000000000, .tv_nsec = due_ns % 1000000000};
      clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
      now = now_ns();
    }
    size_t used = 0;
    for (int i = 0; i < BUFFER_MESSAGES_MIN && one->next < one->end; i++, used += MESSAGE_BYTES) {
      if (first_ns + (int64_t)(one->next * 1e9 / rate) > now) break;
      write_message(one->buffer + used, one->next++);
    }
    for (size_t position = 0; position < used;) {
      ssize_t written = write(one->descriptor, one->buffer + position, used - position);
      if (written <= 0) fail("write");
      position += written;
    }
    int64_t late_ns = now_ns() - due_ns;
    if (late_ns > late_ns_max) late_ns_max = late_ns;
  }
  return late_ns_max;
}

int main(int count, char **words) {
  int connection_count = count > 2 ? atoi(words[2]) : 0;
  int64_t messages = count > 3 ? atoll(words[3]) : 0;
  double rate = count > 4 ? atof(words[4]) : 0;
  if (count < 4 || count > 5 || connection_count < 1 || messages < 1 || (rate && connection_count > 1)) {
    fprintf(stderr, "usage: sender PORT CONNECTIONS MESSAGES [RATE]; with RATE one connection\n");
    return 2;
  }
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  int capacity = connection_count > 16 ? BUFFER_MESSAGES_MIN : BUFFER_MESSAGES_MAX;
  struct connection *connections = calloc(connection_count, sizeof *connections);
  if (!connections) fail("memory");
  for (int i = 0; i < connection_count; i++) {
    connections[i].descriptor = connect_to(atoi(words[1]));
    connections[i].next = messages * i / connection_count;
    connections[i].end = messages * (i + 1) / connection_count;
    connections[i].buffer = malloc((size_t)capacity * MESSAGE_BYTES);
    if (!connections[i].buffer) fail("memory");
  }
  int64_t first_ns = now_ns(), late_ns_max = 0;
  if (rate)
    late_ns_max = send_on_schedule(connections, first_ns, rate);
  else
    send_all(connections, connection_count, capacity);
  printf("%lld %lld %lld\n", (long long)first_ns, (long long)now_ns(), (long long)late_ns_max);
  fflush(stdout);
  while (getchar() != EOF) continue;
}
