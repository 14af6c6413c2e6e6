#!/usr/bin/env python3
"""Where a write spends processor time: cost.py [--secs 5] [--conns 1,64] [--out FILE]

Five new nodes on loopback, and for each number of connections a table with a line for each kind of thread: its processor time a
write, how long it was ready to run and waited for a processor, and how often it was switched to. What followers spend is the
sum of four. The kernel counts all three exactly (/proc/PID/task/TID/schedstat), so a percent shows in five seconds; rates vary by
more, with the machine. Builds `loadgen`, not `yakt`."""
import argparse, collections, shutil
from compare import spec
from peerlib import *

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--secs", type=float, default=5)
ap.add_argument("--conns", default="1,64")
ap.add_argument("--out", default=None)
A = ap.parse_args()
build_loadgen()
S = spec()
D = pathlib.Path(S["dir"])
HTTP = [n["http"] for n in S["nodes"]]
# What works for all nodes: the block layer's flushes, the network's packets, the file system's journal.
KERNEL = ("kworker", "ksoftirqd", "jbd2")


def start(i):
    d = D / f"n{i}"
    d.mkdir(parents=True)
    return spawn([c.replace("{dir}", str(d)) for c in S["nodes"][i]["cmd"]], str(D / f"n{i}.log"))


def read(file):
    try:
        return file.read_text()
    except OSError:
        return ""   # the thread has ended


def counters():
    """Of every thread that counts: what it is, and nanoseconds run, nanoseconds waited, times it was switched to."""
    found = {}
    for i, node in enumerate(nodes):
        whose = "the leader" if i == leader else "followers"
        for task in pathlib.Path(f"/proc/{node.pid}/task").iterdir():
            name = read(task / "comm").strip()
            what = "log" if name == "yakt-journal" else "all else" if int(task.name) == node.pid else "snapshots"
            found[task] = f"{whose}: {what}"
    for process in pathlib.Path("/proc").iterdir():
        if process.name.isdigit() and read(process / "comm").startswith(KERNEL):
            found[process] = "the kernel"
    # Without one that has ended meanwhile.
    read_all = {task: (kind, [int(x) for x in read(task / "schedstat").split()]) for task, kind in found.items()}
    counted = {task: (kind, numbers) for task, (kind, numbers) in read_all.items() if numbers}
    assert counted, "this kernel does not count (CONFIG_SCHED_INFO)"
    return counted


def processors():
    """Ticks of all processors, and those that were idle."""
    ticks = [int(x) for x in open("/proc/stat").readline().split()[1:9]]
    return sum(ticks), ticks[3] + ticks[4]


def write(conns, secs, first):
    body = S["write"]["body"].replace("t-", f"c{conns}-")
    r = load(proto="http", targets=HTTP[leader], method="POST", path=S["write"]["path"], body=body, conns=conns, secs=secs, start=first)
    assert r["bad"] == 0, r
    return r


def measure(conns):
    warm = write(conns, 1, 0)
    before, (all_before, idle_before) = counters(), processors()
    r = write(conns, A.secs, warm["next_seq"])
    after, (all_after, idle_after) = counters(), processors()
    idle = (idle_after - idle_before) / (all_after - all_before)
    print(f"\n{conns} connections: {r['rate']:,.0f} writes/s, p50 {r['p50_us'] / 1000:.3g} ms, p99 {r['p99_us'] / 1000:.3g} ms; "
          f"the processors were idle for {100 * idle:.0f} % of the time, the generator took {100 * r['gen_cpu_share']:.0f} %\n")
    kinds = collections.defaultdict(lambda: [0, 0, 0])
    for task, (kind, now) in after.items():
        was = before.get(task, (kind, [0, 0, 0]))[1]
        kinds[kind] = [total + (b - a) / r["ok"] for total, a, b in zip(kinds[kind], was, now)]
    kinds["all"] = [sum(column) for column in zip(*kinds.values())]
    print("| | processor, us a write | waiting for one, us | switches |\n|---|---|---|---|")
    for kind, (ran, waited, switches) in kinds.items():
        print(f"| {kind} | {ran / 1000:.0f} | {waited / 1000:.0f} | {switches:.1f} |")
        if A.out:
            row(A.out, what="cost of a write", conns=conns, thread=kind, ran_us=ran / 1000, waited_us=waited / 1000, switches=switches)


shutil.rmtree(D, ignore_errors=True)
nodes = [start(i) for i in range(len(HTTP))]
for addr in HTTP:
    wait_for(lambda: http(f"http://{addr}/readyz")[0] == 200)
leader = int(json.loads(http(f"http://{HTTP[0]}/cluster")[1])["leader"]) - 1
for conns in map(int, A.conns.split(",")):
    measure(conns)
for node in nodes:
    stop(node)
