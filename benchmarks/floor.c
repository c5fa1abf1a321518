/* The floor of an HTTP hop: one thread, epoll, a request read by its Content-Length, always the same answer.
 * cc -O2 -o floor floor.c && ./floor      prints its port */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ROOM = 1 << 17, EVENTS = 128 };
static const char ANSWER[] =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n[1]";

struct connection {
    int fd;
    size_t held;
    char bytes[ROOM + 1];
};

/* How many bytes the first request in `c` has, 0 while it is not whole. */
static size_t whole(struct connection *c) {
    c->bytes[c->held] = 0;
    char *end = strstr(c->bytes, "\r\n\r\n");
    if (!end) return 0;
    char *length = strcasestr(c->bytes, "\r\ncontent-length:");
    size_t body = length && length < end ? strtoul(length + 17, NULL, 10) : 0;
    size_t all = (size_t)(end + 4 - c->bytes) + body;
    return all <= c->held ? all : 0;
}

static int serve(struct connection *c) {
    ssize_t got = read(c->fd, c->bytes + c->held, ROOM - c->held);
    if (got <= 0) return 0;
    c->held += (size_t)got;
    for (size_t n; (n = whole(c));) {
        if (write(c->fd, ANSWER, sizeof ANSWER - 1) < 0) return 0;
        c->held -= n;
        memmove(c->bytes, c->bytes + n, c->held);
    }
    return 1;
}

int main(void) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    int one = 1, poll = epoll_create1(0), listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (bind(listener, (struct sockaddr *)&at, size) || listen(listener, 512)) return 1;
    getsockname(listener, (struct sockaddr *)&at, &size);
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    struct epoll_event event = {.events = EPOLLIN}, events[EVENTS];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(poll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            if (c) {
                if (!serve(c)) close(c->fd), free(c);
                continue;
            }
            int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
            if (fd < 0) continue;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            c = calloc(1, sizeof *c);
            c->fd = fd;
            event.data.ptr = c;
            epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
        }
    }
}
