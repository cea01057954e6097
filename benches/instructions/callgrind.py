"""Reads what callgrind writes (the format: valgrind's manual, "Callgrind Format Specification"), finds the instructions
that lock a cache line, and shows both to people."""
import collections
import functools
import re
import subprocess

# A locked read-modify-write; xchg with memory locks without a prefix.
LOCKED = re.compile(r"^\s*([0-9a-f]+):\s+(?:lock |xchg .*\()")
HASH = re.compile(r"(::h[0-9a-f]{16}|\[[0-9a-f]{16}\])")


def read(path):
    """Instructions by place: {(object, function, address): times executed}; and by function with all that it calls."""
    counts, inclusive = collections.Counter(), collections.Counter()
    obj = fn = ""
    called = False
    with open(path) as lines:
        for line in lines:
            if line.startswith("0x"):
                address, _, cost = line.split()[:3]
                inclusive[obj, fn] += int(cost)
                if not called:  # the line after `calls=` has what the callee took
                    counts[obj, fn, int(address, 16)] += int(cost)
                called = False
            elif line.startswith("fn="):
                fn = line[3:].strip()
            elif line.startswith("ob="):
                obj = line[3:].strip()
            elif line.startswith("calls="):
                called = True
    return counts, inclusive


class Disassembly:
    """Which addresses of an object hold a locking instruction; each object is disassembled once."""

    @functools.cache
    def addresses(self, obj):
        out = subprocess.Popen(["objdump", "-d", "--no-show-raw-insn", obj], stdout=subprocess.PIPE, text=True)
        return {int(found[1], 16) for line in out.stdout if (found := LOCKED.match(line))}

    def locked(self, executed):
        return {at: n for at, n in executed.items() if n > 0 and at[0].startswith("/") and at[2] in self.addresses(at[0])}


def inlined_at(obj, addresses):
    """By address, the functions that the instruction stands in, innermost first."""
    command = ["addr2line", "-afiCe", obj, *map(hex, addresses)]
    names = {}
    for line in subprocess.run(command, capture_output=True, text=True).stdout.splitlines():
        if re.fullmatch("0x[0-9a-f]{16}", line):
            names[int(line, 16)] = lines = []
        else:
            lines.append(line)
    return {address: lines[::2] for address, lines in names.items()}  # every second line is a file's name


def show_locked(locked, count):
    """The places of locked instructions, each with the way into it through what was inlined."""
    places = collections.Counter()
    for obj in {obj for obj, _, _ in locked}:
        names = inlined_at(obj, [address for o, _, address in locked if o == obj])
        for (o, fn, address), n in locked.items():
            if o == obj:
                # What an atomic is made of says nothing.
                own = [x for x in names.get(address, []) if not x.startswith(("core::sync::atomic", "core::intrinsics", "?"))]
                places[" < ".join(own[:4]) or HASH.sub("", fn)] += n
    for name, n in places.most_common(count):
        print(f"    {n:5.2f} locked in {HASH.sub('', name)}")


def show_profile(executed, inclusive, count):
    exclusive = collections.Counter()
    for (obj, fn, _), n in executed.items():
        exclusive[obj, fn] += n
    for title, costs in [("in the function itself", exclusive), ("with all that it calls", inclusive)]:
        print(f"    instructions a request, {title}:")
        for (_, fn), n in sorted(costs.items(), key=lambda item: -item[1])[:count]:
            print(f"    {n:9.1f} {HASH.sub('', fn)[:150]}")
