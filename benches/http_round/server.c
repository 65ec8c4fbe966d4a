// server FIRST_PORT PORTS SERVICE_US [SLOW_INDEX SLOW_US]
//
// The sample server of the round comparison: HTTP/1.1 with kept connections on PORTS loopback ports from FIRST_PORT,
// one epoll loop, the same small JSON document from every port after an injected service time; one port may be slower.
// Prints `ready` once it listens on all of them. Clients send a request head in one segment and no body.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { DESCRIPTORS_MAX = 65536, EVENTS_MAX = 512 };

static const char BODY[] =
    "{\"id\":12345,\"name\":\"sensor-0042\",\"ts\":1732300000123,\"values\":[1.25,2.5,3.75,4.125],\"status\":\"ok\","
    "\"unit\":\"C\",\"location\":{\"lat\":52.52,\"lon\":13.405},\"tags\":[\"a\",\"b\",\"c\"]}";

// What is known of each descriptor. A generation tells an answer that is due apart from a descriptor used anew.
static struct {
  int is_listener, port_index, generation;
} known[DESCRIPTORS_MAX];

struct answer {
  int descriptor, generation;
  int64_t due_ns;
};

// A ring that grows. All its answers have the same service time, so that the first is always due first.
struct queue {
  struct answer *slots;
  size_t head, length, capacity;
};

static char response[1024];
static size_t response_length;

static int64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void push(struct queue *queue, struct answer answer) {
  if (queue->length == queue->capacity) {
    size_t capacity = queue->capacity ? queue->capacity * 2 : 1024;
    struct answer *slots = malloc(capacity * sizeof *slots);
    if (!slots) exit(1);
    for (size_t i = 0; i < queue->length; i++) slots[i] = queue->slots[(queue->head + i) % queue->capacity];
    free(queue->slots);
    *queue = (struct queue){slots, 0, queue->length, capacity};
  }
  queue->slots[(queue->head + queue->length++) % queue->capacity] = answer;
}

static void forget(int descriptor) {
  close(descriptor);
  known[descriptor].generation++;
}

static void reply(int descriptor) {
  if (write(descriptor, response, response_length) != (ssize_t)response_length) forget(descriptor);
}

static void reply_to_due(struct queue *queue, int64_t now) {
  while (queue->length && queue->slots[queue->head].due_ns <= now) {
    struct answer answer = queue->slots[queue->head];
    queue->head = (queue->head + 1) % queue->capacity;
    queue->length--;
    if (known[answer.descriptor].generation == answer.generation) reply(answer.descriptor);
  }
}

static void watch(int epoll, int descriptor) {
  struct epoll_event event = {.events = EPOLLIN, .data.fd = descriptor};
  epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event);
}

static void listen_on(int epoll, int port, int index) {
  int one = 1, descriptor = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (bind(descriptor, (void *)&address, sizeof address) || listen(descriptor, 4096)) {
    fprintf(stderr, "port %d: %s\n", port, strerror(errno));
    exit(1);
  }
  known[descriptor].is_listener = 1;
  known[descriptor].port_index = index;
  watch(epoll, descriptor);
}

static void accept_all(int epoll, int listener) {
  int descriptor, one = 1;
  while ((descriptor = accept4(listener, 0, 0, SOCK_NONBLOCK)) >= 0) {
    if (descriptor >= DESCRIPTORS_MAX) {
      close(descriptor);
      continue;
    }
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    known[descriptor].is_listener = 0;
    known[descriptor].port_index = known[listener].port_index;
    known[descriptor].generation++;
    watch(epoll, descriptor);
  }
}

int main(int count, char **words) {
  if (count != 4 && count != 6) {
    fprintf(stderr, "usage: server FIRST_PORT PORTS SERVICE_US [SLOW_INDEX SLOW_US]\n");
    return 2;
  }
  int first_port = atoi(words[1]), ports = atoi(words[2]), slow_index = count > 4 ? atoi(words[4]) : -1;
  int64_t service_ns = atoll(words[3]) * 1000, slow_ns = count > 4 ? atoll(words[5]) * 1000 : 0;
  response_length = snprintf(response, sizeof response,
                             "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
                             "Connection: keep-alive\r\n\r\n%s", sizeof BODY - 1, BODY);
  int epoll = epoll_create1(0);
  for (int i = 0; i < ports; i++) listen_on(epoll, first_port + i, i);
  printf("ready\n");
  fflush(stdout);
  struct queue usual = {0}, slow = {0};
  struct epoll_event events[EVENTS_MAX];
  for (;;) {
    int64_t due = INT64_MAX;
    if (usual.length) due = usual.slots[usual.head].due_ns;
    if (slow.length && slow.slots[slow.head].due_ns < due) due = slow.slots[slow.head].due_ns;
    struct timespec wait, *limit = 0;
    if (due != INT64_MAX) {
      int64_t left = due - now_ns();
      if (left < 0) left = 0;
      wait = (struct timespec){left / 1000000000, left % 1000000000};
      limit = &wait;
    }
    int ready = epoll_pwait2(epoll, events, EVENTS_MAX, limit, 0);
    for (int i = 0; i < ready; i++) {
      int descriptor = events[i].data.fd;
      if (known[descriptor].is_listener) {
        accept_all(epoll, descriptor);
        continue;
      }
      char head[8192];
      ssize_t length = read(descriptor, head, sizeof head);
      if (length <= 0) {
        if (length == 0 || errno != EAGAIN) forget(descriptor);
        continue;
      }
      if (!memmem(head, length, "\r\n\r\n", 4)) continue;
      int is_slow = known[descriptor].port_index == slow_index;
      int64_t service = is_slow ? slow_ns : service_ns;
      if (service == 0) {
        reply(descriptor);
      } else {
        struct answer answer = {descriptor, known[descriptor].generation, now_ns() + service};
        push(is_slow ? &slow : &usual, answer);
      }
    }
    int64_t now = now_ns();
    reply_to_due(&usual, now);
    reply_to_due(&slow, now);
  }
}
