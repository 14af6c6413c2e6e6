#!/usr/bin/env python3
"""YAKt beside etcd and ZooKeeper, on this machine, one after the other, and one table of ratios.

    benches/peers/compare.py [--secs 2] [--reps 3] [--failovers 20] [--rounds 5] [--peers etcd,zk,yakt] [--results DIR]

Five nodes each, on loopback, fsync on, records of about 300 bytes, closed loop over kept connections, the same generator
(`loadgen`) and the same steps for all. Installs what is missing from Debian's packages, which takes root; builds `yakt` and
`loadgen`. Results stay in target/peers/results as JSON lines (`--peers` measures some anew and leaves the others as they are).

A machine is not equally fast all the time, and least so when others share it. So writes to etcd and YAKt are measured in
rounds too, one cluster after the other in each, every one new, and what is compared is the middle one of the rounds' ratios.
(ZooKeeper takes longer than a round to be as fast as it gets.) All that takes half an hour on two cores; let nothing else run.
"""
import argparse, json, os, pathlib, shutil, statistics, subprocess, sys
from peerlib import HERE, TARGET, WORK, build_loadgen

ROOT = HERE.parents[1]
PACKAGES = {
    "etcd": [("etcd", "etcd-server"), ("etcdctl", "etcd-client")],
    "zk": [("java", "openjdk-17-jre-headless"), ("/usr/share/java/zookeeper.jar", "zookeeper")],
    "limits": [("fio", "fio"), ("nginx", "nginx-light"), ("wrk", "wrk")],
    "yakt": [],
}
PAD = "@pad:220@"
FIRST_PORT = 24510


def spec():
    """YAKt as `http_peer.py` wants it described."""
    raft = lambda i: f"127.0.0.1:{FIRST_PORT + 10 * i}"

    def node(i):
        ensemble = ",".join(f"{j + 1}/{raft(j)}" for j in range(i))
        cmd = [str(ROOT / "target/release/yakt"), "node", "-i", str(i + 1), "-a", raft(i), "--data", "{dir}/data"]
        return {"cmd": cmd + (["-e", ensemble] if ensemble else []), "http": f"127.0.0.1:{FIRST_PORT + 10 * i + 1}"}

    read = {"method": "GET", "path": f"/get_topic_by_name/t-@r:1000@-{PAD}", "ok_substr": "topicUUID"}
    return {
        "name": "yakt",
        "dir": str(WORK / "yakt"),
        "nodes": [node(i) for i in range(5)],
        "ready": {"path": "/readyz"},
        "leader": {"method": "GET", "path": "/cluster", "eq": ["leader", "node"]},
        "write": {"method": "POST", "path": "/create_topic", "body": f'{{"name":"t-@n@-{PAD}"}}', "ok_substr": "topicUUID"},
        "reads": {"linearizable read": read, "local read": {**read, "path": read["path"] + "?consistency=stale"}},
        "bench": [str(ROOT / "target/release/yakt"), "bench", "--connections", "{conns}", "--duration", "{secs}", "--mix", "writes=1", "--json", "{target}"],
    }


def install(peers):
    there = lambda what: os.path.exists(what) if what.startswith("/") else shutil.which(what)
    missing = [package for peer in peers for what, package in PACKAGES[peer] if not there(what)]
    if missing:
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-q"], check=True, env=env, stdout=sys.stderr)
        subprocess.run(["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing], check=True, env=env, stdout=sys.stderr)


# What measures each, and all that it measures.
SCRIPTS = {
    "limits": (["limits.py"], None),
    "etcd": (["etcd_peer.py"], "size,write,read,grpc,failover"),
    "zk": (["zk_peer.py"], "size,write,read,failover"),
    "yakt": (["http_peer.py", str(WORK / "yakt.json")], "size,write,read,bench,failover"),
}


def measure(peer, args, out, only=None):
    out.unlink(missing_ok=True)
    (script, *rest), parts = SCRIPTS[peer]
    command = [sys.executable, str(HERE / script), *rest, "--secs", str(args.secs), "--reps", str(args.reps), "--out", str(out)]
    if parts:
        command += ["--failovers", str(args.failovers), *(only or ["--parts", parts])]
    print(f"== {peer}", file=sys.stderr)
    subprocess.run(command, check=True, stdout=sys.stderr)


def measure_round(number, args):
    """Writes to etcd and to YAKt."""
    print(f"== round {number}", file=sys.stderr)
    for peer in ("etcd", "yakt"):
        measure(peer, args, args.results / f"{peer}.round{number}.jsonl", ["--parts", "write", "--conns", ",".join(map(str, ROUND_CONNS))])


class Results:
    def __init__(self, directory):
        self.rows = {}
        for peer in PACKAGES:
            file = directory / f"{peer}.jsonl"
            self.rows[peer] = [json.loads(line) for line in open(file)] if file.exists() else []

        self.rounds = {peer: [] for peer in PACKAGES}
        for peer, rounds in self.rounds.items():
            while (file := directory / f"{peer}.round{len(rounds) + 1}.jsonl").exists():
                rounds.append([json.loads(line) for line in open(file)])

    def in_rounds(self, peer, what, conns):
        """The rate in each round."""
        return [row["rate"] for rows in self.rounds[peer] for row in rows if row["what"] == what and row.get("conns") == conns]

    def find(self, peer, what, conns=None):
        found = [row for row in self.rows[peer] if row["what"] == what and row.get("conns") == conns]
        return found[-1] if found else None

    def value(self, peer, what, key, conns=None):
        row = self.find(peer, what, conns) if what else None
        value = row.get(key) if row else None
        # A figure for each node: the middle one, or one of the nodes' memory.
        return statistics.median(value) if isinstance(value, list) else value


# What each calls the same thing: etcd over HTTP and over gRPC, ZooKeeper, YAKt. The goals are YAKt's, relative to etcd over HTTP and
# to ZooKeeper; below 1 for what should be little.
WRITE = ("http put to leader", "grpc put to leader", "create on leader", "write to leader")
LINEAR = ("http linearizable read on {}", "grpc linearizable read on {}", "sync+read (up to date) on {}", "linearizable read on {}")
LOCAL = ("http serializable read on {}", "grpc serializable read on {}", "local read (serializable-like) on {}", "local read on {}")
WRITE_GOALS = {1: (2.2, 1.3), 64: (3.0, 1.5)}
# Connections in the rounds.
ROUND_CONNS = sorted(WRITE_GOALS)
RATES = [
    ("writes/s", WRITE, WRITE_GOALS),
    ("linearizable reads/s, leader", [name.format("leader") for name in LINEAR], {64: (4.0, 1.0)}),
    ("linearizable reads/s, follower", [name.format("follower") for name in LINEAR], {}),
    ("local reads/s, leader", [name.format("leader") for name in LOCAL], {64: (6.0, None)}),
    ("local reads/s, follower", [name.format("follower") for name in LOCAL], {}),
]
SINGLE = [
    ("leader killed → next write, median ms", ("failover kill -9 leader (ms)",) * 3, "median", 1),
    ("leader killed → next write, max ms", ("failover kill -9 leader (ms)",) * 3, "max", 1),
    ("memory idle, MiB a node", ("rss_kib idle",) * 3, "per_node", 1024),
    ("memory after 10,000 records, MiB a node", ("10k new keys", "10k new znodes", "10k new records"), "rss_kib", 1024),
    ("memory in the end, MiB a node", ("rss_kib end",) * 3, "per_node", 1024),
    ("disk for 10,000 records, MiB a node", ("10k new keys", "10k new znodes", "10k new records"), "disk_allocated_bytes_growth_per_node", 1 << 20),
    ("cold start, s", ("cold start, all nodes healthy", "cold start, all nodes serving", "cold start, all nodes ready and a leader"), "secs", 1),
    ("restart of one, s", ("one node restart to healthy", "one node restart to serving", "one node restart to ready"), "median", 1),
]


def number(value):
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ratio(ours, theirs):
    return None if ours is None or not theirs else ours / theirs


def against(ours, theirs, goal, little=False):
    """The ratio, and how it stands to the goal."""
    value = ratio(ours, theirs)
    if value is None or goal is None:
        return number(value)
    met = value <= goal if little else value >= goal
    return f"{number(value)} ({'meets' if met else 'misses'} {goal})"


def table(results):
    print("| | etcd HTTP | etcd gRPC | ZooKeeper | YAKt | to etcd HTTP | to ZooKeeper |\n|---|---|---|---|---|---|---|")
    line = lambda *cells: print("| " + " | ".join(cells) + " |")
    for name, whats, goals in RATES:
        peers = list(zip(("etcd", "etcd", "zk", "yakt"), whats))
        for conns in (1, 16, 64):
            rates = [results.value(peer, what, "rate", conns) for peer, what in peers]
            to_etcd, to_zk = goals.get(conns, (None, None))
            line(f"{name}, {conns} connections", *map(number, rates), against(rates[3], rates[0], to_etcd), against(rates[3], rates[2], to_zk))
            late = [results.value(peer, what, "p99_us", conns) for peer, what in peers]
            late = [value and value / 1000 for value in late]
            goal = 1.0 if name == "writes/s" and conns in goals else None
            line("– p99, ms", *map(number, late), against(late[3], late[0], goal, True), against(late[3], late[2], goal, True))
    for conns in ROUND_CONNS:
        etcd, yakt = results.in_rounds("etcd", WRITE[0], conns), results.in_rounds("yakt", WRITE[3], conns)
        if etcd and yakt:
            ratios = sorted(map(ratio, yakt, etcd))
            compared = against(statistics.median(ratios), 1, WRITE_GOALS[conns][0])
            name = f"writes/s in {len(ratios)} rounds, {conns} connections"
            cells = [number(statistics.median(etcd)), "", "", number(statistics.median(yakt))]
            line(name, *cells, f"{compared}; {number(ratios[0])} to {number(ratios[-1])}", "")
    for name, whats, key, unit in SINGLE:
        values = [results.value(peer, what, key) for peer, what in zip(("etcd", "zk", "yakt"), whats)]
        etcd, zk, yakt = (value and value / unit for value in values)
        line(name, number(etcd), "", number(zk), number(yakt), number(ratio(yakt, etcd)), number(ratio(yakt, zk)))
    for conns in (1, 16, 64):
        rate = results.value("yakt", "write to leader, own generator", "rate", conns)
        line(f"writes/s by `yakt bench`, {conns} connections", "", "", "", number(rate), "", "")
    for row in results.rows["limits"]:
        rate = row.get("rate") or row.get("fsyncs_per_s")
        conns = f", {row['conns']} connections" if "conns" in row else ""
        line(f"limit: {row['what']}{conns}", "", "", "", f"{number(rate)}/s", "", "")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--secs", type=float, default=2)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--failovers", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", default="limits,etcd,zk,yakt", help="which to measure; '' only prints the table")
    parser.add_argument("--results", type=pathlib.Path, default=TARGET / "results")
    args = parser.parse_args()
    peers = [peer for peer in args.peers.split(",") if peer]
    install(peers)
    args.results.mkdir(parents=True, exist_ok=True)
    if peers:
        build_loadgen()
    if "yakt" in peers:
        (WORK / "yakt.json").parent.mkdir(parents=True, exist_ok=True)
        (WORK / "yakt.json").write_text(json.dumps(spec()))
        subprocess.run(["cargo", "build", "--release", "--quiet", "--bin", "yakt"], cwd=ROOT, check=True)
    for peer in peers:
        measure(peer, args, args.results / f"{peer}.jsonl")
    if {"etcd", "yakt"} <= set(peers):
        # Those of an earlier run, which may have had more.
        for file in args.results.glob("*.round*.jsonl"):
            file.unlink()
        for number in range(1, args.rounds + 1):
            measure_round(number, args)
    table(Results(args.results))


if __name__ == "__main__":
    main()
