/* The server behind the proxies that are measured: an epoll loop that answers from memory, so that it takes as little as
 * possible of the core that it shares with the load. It reads a request's whole body before it answers: a server that
 * answers early makes every proxy give the connection up. The path's end says what is sent: /64k, /1m, /10m, /browser
 * (an answer with the fields that a web application sends), else 128 bytes. For the benches alone: one request at a
 * time on a connection, bodies with Content-Length only; anything else ends the connection. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAX_HEAD 16384

struct answer {
    const char *path;
    const char *fields;
    size_t size;
    char head[1024];
    size_t head_size;
};

#define COMMON "Server: origin\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: text/plain\r\n"

static struct answer answers[] = {
    {"/64k", COMMON, 64 << 10},
    {"/1m", COMMON, 1 << 20},
    {"/10m", COMMON, 10 << 20},
    {"/browser",
     "Server: origin\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: application/json; charset=utf-8\r\n"
     "Cache-Control: private, max-age=0, must-revalidate\r\nETag: W/\"2f8a-9b1c6a0d4f\"\r\n"
     "Last-Modified: Sun, 06 Nov 1994 08:00:00 GMT\r\nVary: Accept-Encoding, Origin\r\n"
     "Set-Cookie: session=8f14e45fceea167a5a36dedd4bea2543; Path=/; HttpOnly; SameSite=Lax\r\n"
     "X-Content-Type-Options: nosniff\r\nStrict-Transport-Security: max-age=63072000\r\n",
     1024},
    {"", COMMON, 128},
};

struct connection {
    int fd;
    int waits_to_write;
    char *head; /* what has arrived of a head; NULL between requests */
    size_t head_size;
    size_t body_left;           /* bytes of the request's body that have not arrived */
    const struct answer *answer; /* chosen when the head was complete */
    size_t sent;
};

static char body[10 << 20], scratch[1 << 20];
static int epoll;

static void watch(struct connection *c, int op) {
    struct epoll_event event = {.events = c->waits_to_write ? EPOLLOUT : EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll, op, c->fd, &event);
}

static void finish(struct connection *c) {
    close(c->fd);
    free(c->head);
    free(c);
}

static int ends_with(const char *text, size_t size, const char *end) {
    size_t n = strlen(end);
    return size >= n && !memcmp(text + size - n, end, n);
}

static void answer_for(struct connection *c, const char *head) {
    const char *target = strchr(head, ' ') + 1;
    size_t size = strcspn(target, " \r\n");
    c->answer = answers;
    while (!ends_with(target, size, c->answer->path)) c->answer++;
    const char *length = strcasestr(head, "\r\ncontent-length:");
    c->body_left = length ? strtoul(length + 17, NULL, 10) : 0;
    c->sent = 0;
}

/* 0: the connection is over. */
static int flush(struct connection *c) {
    const struct answer *a = c->answer;
    size_t total = a->head_size + a->size;
    while (c->sent < total) {
        size_t in_head = c->sent < a->head_size ? a->head_size - c->sent : 0;
        size_t in_body = c->sent < a->head_size ? 0 : c->sent - a->head_size;
        struct iovec pieces[2] = {{(char *)a->head + c->sent, in_head}, {body + in_body, a->size - in_body}};
        struct msghdr message = {.msg_iov = in_head ? pieces : pieces + 1, .msg_iovlen = in_head ? 2 : 1};
        ssize_t n = sendmsg(c->fd, &message, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            if (!c->waits_to_write) {
                c->waits_to_write = 1;
                watch(c, EPOLL_CTL_MOD);
            }
            return 1;
        }
        if (n < 0) return 0;
        c->sent += n;
    }
    c->answer = NULL;
    if (c->waits_to_write) {
        c->waits_to_write = 0;
        watch(c, EPOLL_CTL_MOD);
    }
    return 1;
}

/* The end of the head, and what follows it of the body. The head is copied, and ended with a zero, so that the string
 * functions can read it. */
static int take(struct connection *c, const char *data, size_t n) {
    if (!c->answer) {
        size_t had = c->head_size, more = n < MAX_HEAD - had ? n : MAX_HEAD - had;
        if (!(c->head = realloc(c->head, had + more + 1))) return 0;
        memcpy(c->head + had, data, more);
        c->head_size += more;
        c->head[c->head_size] = 0;
        char *end = strstr(c->head, "\r\n\r\n");
        if (!end) return c->head_size < MAX_HEAD;
        *end = 0;
        if (!strchr(c->head, ' ') || strcasestr(c->head, "\r\ntransfer-encoding:")) return 0;
        answer_for(c, c->head);
        n -= end + 4 - c->head - had;
        free(c->head);
        c->head = NULL;
        c->head_size = 0;
    }
    if (n > c->body_left) return 0;
    c->body_left -= n;
    return c->body_left ? 1 : flush(c);
}

static int listen_on(const char *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (void *)&address, sizeof address) || listen(fd, 4096)) {
        perror(port);
        exit(1);
    }
    return fd;
}

int main(int argc, char **argv) {
    if (argc < 2 || argc > 65) {
        fprintf(stderr, "usage: origin PORT... (at most 64)\n");
        return 2;
    }
    struct rlimit files = {0};
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    memset(body, 'x', sizeof body);
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++)
        answers[i].head_size = snprintf(answers[i].head, sizeof answers[i].head,
                                        "HTTP/1.1 200 OK\r\n%sContent-Length: %zu\r\n\r\n", answers[i].fields,
                                        answers[i].size);
    epoll = epoll_create1(0);
    struct connection listeners[64];
    for (int i = 1; i < argc; i++) {
        listeners[i - 1] = (struct connection){.fd = listen_on(argv[i])};
        watch(&listeners[i - 1], EPOLL_CTL_ADD);
    }
    struct epoll_event events[256];
    for (;;) {
        int n = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (c >= listeners && c < listeners + 64) {
                int fd, one = 1;
                while ((fd = accept4(c->fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    struct connection *new = calloc(1, sizeof *new);
                    if (!new) abort();
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    new->fd = fd;
                    watch(new, EPOLL_CTL_ADD);
                }
                continue;
            }
            int goes_on;
            if (c->waits_to_write) {
                goes_on = flush(c);
            } else {
                ssize_t got = recv(c->fd, scratch, sizeof scratch, 0);
                goes_on = got > 0 ? take(c, scratch, got) : got < 0 && errno == EAGAIN;
            }
            if (!goes_on) finish(c);
        }
    }
}
