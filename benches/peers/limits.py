"""What shardgate must reach beside the others, and whether it did."""


def over(result, *names):
    """The highest ratio of shardgate's figure to one of theirs: that to the better of them."""
    ratios = [result[name]["shardgate_over_it"] for name in names]
    return max(ratios)


# (scenario, what is limited, how it follows from the scenario's result, the limit)
BETTER = ("nginx", "haproxy")
LIMITS = [
    ("small", "128 B answers: CPU to the better of nginx and HAProxy", lambda r: over(r, *BETTER), 0.95),
    ("small", "128 B answers: CPU to the relay", lambda r: over(r, "relay"), 1.20),
    ("small-1000", "1,000 connections: CPU to the better", lambda r: over(r, *BETTER), 0.95),
    ("64k", "64 KiB answers: CPU to nginx", lambda r: over(r, "nginx"), 1.00),
    ("64k", "64 KiB answers: CPU to the relay", lambda r: over(r, "relay"), 1.05),
    ("post-16k", "16 KiB posts: CPU to the better", lambda r: over(r, *BETTER), 0.95),
    ("new", "new connections: CPU to the better", lambda r: over(r, *BETTER), 1.05),
    ("tls", "TLS: CPU to the better", lambda r: over(r, *BETTER), 1.00),
    ("tls-new", "full handshakes: CPU to the better", lambda r: over(r, *BETTER), 1.00),
    ("h2", "HTTP/2 over TLS: CPU to nginx", lambda r: over(r, "nginx"), 1.00),
    ("idle", "idle connection: bytes", lambda r: r["shardgate"][0], 2048),
    ("idle", "idle connection: after another wave, to before", lambda r: r["shardgate"][1] / r["shardgate"][0], 1.2),
    ("rate", "p99 at half load, to the better", lambda r: over(r, *BETTER), 1.1),
    ("slow", "slow reader: bytes", lambda r: max(r["shardgate"]), 128 << 10),
]


def show(results):
    """Prints the limits of what was measured; True if all of them are kept."""
    kept = True
    print("\n== limits")
    for scenario, what, figure, limit in LIMITS:
        if scenario not in results:
            continue
        try:
            value = figure(results[scenario])
        except KeyError:  # one of those compared was left out
            continue
        kept &= value <= limit
        form = ",.0f" if limit > 100 else ".3f"
        print(f"{'pass' if value <= limit else 'FAIL'}  {what:55} {value:>10{form}}   at most {limit:{form}}")
    return kept
