// link NAMESPACE NAMESPACE DELAY_US JITTER_US LOSS_PERMILLE SEED
//
// A network path between two network namespaces, where the kernel has no netem: a TUN device `skew` in each, and this program
// between them. Each packet, in both directions, is dropped with the given probability, or handed on after DELAY_US ± JITTER_US,
// uniformly and each by itself, so that packets overtake each other: what `netem delay … … loss …` does by default. Prints
// `ready` once the devices are there, which go when it ends.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { PACKET_MAX = 2048, PACKETS_MAX = 65536 };

struct packet {
  int64_t due_ns;
  int target, length;
  char bytes[PACKET_MAX];
};

// A binary heap, the packet that is due first on top.
static struct packet *heap[PACKETS_MAX];
static int heap_length;
static uint64_t state;

static void fail(const char *what) {
  fprintf(stderr, "link: %s: %s\n", what, strerror(errno));
  exit(1);
}

static int64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000LL + time.tv_nsec;
}

// A number below `limit`: SplitMix64 (Steele, Lea and Flood, 2014).
static uint64_t random_below(uint64_t limit) {
  uint64_t mixed = state += 0x9e3779b97f4a7c15;
  mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9;
  mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111eb;
  return (mixed ^ mixed >> 31) % limit;
}

static void push(struct packet *packet) {
  int at = heap_length++;
  for (; at > 0 && heap[(at - 1) / 2]->due_ns > packet->due_ns; at = (at - 1) / 2) heap[at] = heap[(at - 1) / 2];
  heap[at] = packet;
}

static struct packet *pop(void) {
  struct packet *first = heap[0], *last = heap[--heap_length];
  int at = 0, child;
  while ((child = 2 * at + 1) < heap_length) {
    if (child + 1 < heap_length && heap[child + 1]->due_ns < heap[child]->due_ns) child++;
    if (last->due_ns <= heap[child]->due_ns) break;
    heap[at] = heap[child];
    at = child;
  }
  heap[at] = last;
  return first;
}

static int device_in(const char *namespace) {
  char path[256];
  snprintf(path, sizeof path, "/var/run/netns/%s", namespace);
  int entry = open(path, O_RDONLY | O_CLOEXEC);
  if (entry < 0 || setns(entry, CLONE_NEWNET)) fail(path);
  close(entry);
  int device = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  struct ifreq request = {.ifr_name = "skew", .ifr_flags = IFF_TUN | IFF_NO_PI};
  if (device < 0 || ioctl(device, TUNSETIFF, &request)) fail("/dev/net/tun");
  return device;
}

int main(int count, char **words) {
  if (count != 7) {
    fprintf(stderr, "usage: link NAMESPACE NAMESPACE DELAY_US JITTER_US LOSS_PERMILLE SEED\n");
    return 2;
  }
  struct pollfd devices[2];
  for (int i = 0; i < 2; i++) devices[i] = (struct pollfd){.fd = device_in(words[1 + i]), .events = POLLIN};
  int64_t delay_ns = atoll(words[3]) * 1000, jitter_ns = atoll(words[4]) * 1000;
  uint64_t loss_permille = strtoull(words[5], 0, 10);
  state = strtoull(words[6], 0, 10);
  // A network does not get slower because its users compute. Without the right to it, it does.
  struct sched_param priority = {.sched_priority = 1};
  sched_setscheduler(0, SCHED_FIFO, &priority);
  printf("ready\n");
  fflush(stdout);
  struct packet *spare = 0;
  for (;;) {
    int64_t now = now_ns();
    while (heap_length && heap[0]->due_ns <= now) {
      struct packet *packet = pop();
      // A device whose queue is full drops, as networks do.
      if (write(devices[packet->target].fd, packet->bytes, packet->length) < 0 && errno != EAGAIN && errno != EIO) fail("write");
      free(packet);
    }
    int64_t left = heap_length ? heap[0]->due_ns - now_ns() : -1;
    struct timespec wait = {left / 1000000000, left % 1000000000}, none = {0};
    ppoll(devices, 2, heap_length ? (left > 0 ? &wait : &none) : 0, 0);
    for (int i = 0; i < 2; i++) {
      for (;;) {
        if (!spare && !(spare = malloc(sizeof *spare))) fail("memory");
        spare->length = read(devices[i].fd, spare->bytes, PACKET_MAX);
        if (spare->length <= 0) break;
        // IPv4 only: devices announce themselves with IPv6.
        if (spare->bytes[0] >> 4 != 4 || heap_length == PACKETS_MAX || random_below(1000) < loss_permille) continue;
        spare->target = 1 - i;
        spare->due_ns = now_ns() + delay_ns - jitter_ns + (int64_t)random_below(2 * jitter_ns + 1);
        push(spare);
        spare = 0;
      }
    }
  }
}
