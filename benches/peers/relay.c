/* The floor that proxies are measured against: an epoll loop that passes bytes on and understands none of them. Each
 * client connection gets one to the origin; per request that is two reads and two writes, the least that anything
 * between two sockets can do. For the bench alone: it handles no error but by closing both ends. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

struct end {
    int fd;
    int waits_to_write;
    size_t from, to; /* bytes of `buffer` that this end has still to be sent */
    struct end *other;
    char buffer[65536];
};

static int epoll;

static void watch(struct end *end, int op) {
    struct epoll_event event = {.events = EPOLLIN | (end->waits_to_write ? EPOLLOUT : 0), .data.ptr = end};
    /* While the other side can't take more, nothing more is read here. */
    if (end->other && end->other->to > end->other->from) event.events &= ~EPOLLIN;
    epoll_ctl(epoll, op, end->fd, &event);
}

static void finish(struct end *end) {
    if (end->fd < 0) return;
    close(end->fd);
    close(end->other->fd);
    end->fd = end->other->fd = -1;
}

static void flush(struct end *end) {
    while (end->from < end->to) {
        ssize_t n = send(end->fd, end->buffer + end->from, end->to - end->from, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            if (!end->waits_to_write) {
                end->waits_to_write = 1;
                watch(end, EPOLL_CTL_MOD);
                watch(end->other, EPOLL_CTL_MOD);
            }
            return;
        }
        if (n < 0) {
            finish(end);
            return;
        }
        end->from += n;
    }
    end->from = end->to = 0;
    if (end->waits_to_write) {
        end->waits_to_write = 0;
        watch(end, EPOLL_CTL_MOD);
        watch(end->other, EPOLL_CTL_MOD);
    }
}

static struct end *end_of(int fd) {
    struct end *end = malloc(sizeof *end);
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    end->fd = fd;
    end->waits_to_write = 0;
    end->from = end->to = 0;
    end->other = NULL;
    return end;
}

static struct sockaddr_in loopback(const char *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: relay LISTEN_PORT ORIGIN_PORT\n");
        return 2;
    }
    struct rlimit files = {0};
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    struct sockaddr_in here = loopback(argv[1]), there = loopback(argv[2]);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&here, sizeof here) || listen(listener, 4096)) {
        perror("relay");
        return 1;
    }
    epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[256];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int n = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < n; i++) {
            struct end *end = events[i].data.ptr;
            if (!end) {
                int fd;
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    int up = socket(AF_INET, SOCK_STREAM, 0);
                    if (connect(up, (void *)&there, sizeof there)) {
                        close(up);
                        close(fd);
                        continue;
                    }
                    fcntl(up, F_SETFL, O_NONBLOCK);
                    struct end *a = end_of(fd), *b = end_of(up);
                    a->other = b;
                    b->other = a;
                    watch(a, EPOLL_CTL_ADD);
                    watch(b, EPOLL_CTL_ADD);
                }
                continue;
            }
            if (end->fd < 0) continue;
            if (events[i].events & EPOLLOUT) flush(end);
            if (end->fd >= 0 && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                struct end *to = end->other;
                if (to->to) continue;
                ssize_t got = recv(end->fd, to->buffer, sizeof to->buffer, 0);
                if (got <= 0) {
                    if (got < 0 && errno == EAGAIN) continue;
                    finish(end);
                    continue;
                }
                to->to = got;
                flush(to);
            }
        }
    }
}
