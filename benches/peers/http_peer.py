#!/usr/bin/env python3
"""Any HTTP metadata service, measured with the same steps as etcd_peer.py: http_peer.py SPEC.json [--secs 2] [--reps 3] [--failovers 10] [--parts size,write,read,bench,failover] [--out FILE]
SPEC: {"name": "ours", "dir": "/tmp/ours",                      # wiped at start; each node gets {dir}/nI
  "nodes": [{"cmd": ["prog", "--data", "{dir}"], "http": "127.0.0.1:7001"}, ...],   # {dir} is the node's own directory, {i} its index
  "ready": {"path": "/health", "contains": "ok"},                        # per node
  "leader": {"method": "GET", "path": "/status", "eq": ["role", "=leader"]},  # dotted JSON fields; "=x" is the literal x
  "write": {"method": "POST", "path": "/create_topic", "body": "{\\"name\\":\\"t-@n@\\"}", "ok_substr": "...", "follow": true},
  "reads": {"get one": {"method": "GET", "path": "/get_topic/t-@r:1000@", "ok_substr": "..."}}}
Placeholders in path/body: @n@ sequence number, @r:M@ random below M, @uuid@, @pad:N@, @b64( ... )b64@, @@ for @."""
import argparse, shutil, statistics, time
from peerlib import *

ap = argparse.ArgumentParser()
ap.add_argument("spec")
ap.add_argument("--secs", type=float, default=2)
ap.add_argument("--warm", type=float, default=0.5)
ap.add_argument("--reps", type=int, default=3)
ap.add_argument("--failovers", type=int, default=10)
ap.add_argument("--fail-secs", type=float, default=8)
ap.add_argument("--parts", default="size,write,read,failover")
ap.add_argument("--conns", default="1,16,64")
ap.add_argument("--out", default=None)
A = ap.parse_args()
build_loadgen()
S = json.load(open(A.spec))
N, D = len(S["nodes"]), pathlib.Path(S["dir"])
NAME = S["name"]
HOST = [n["http"] for n in S["nodes"]]
procs = {}


def start(i):
    d = D / f"n{i}"
    d.mkdir(parents=True, exist_ok=True)
    n = S["nodes"][i]
    cmd = [c.replace("{dir}", str(d)).replace("{i}", str(i)) for c in n.get("recmd" if procs.get(i) else "cmd", n["cmd"])]
    procs[i] = spawn(cmd, str(D / f"n{i}.log"), cwd=d)


def ready(i):
    r = S["ready"]
    st, b = http(f"http://{HOST[i]}{r['path']}", timeout=1)
    return st == 200 and r.get("contains", "").encode() in b


def field(j, f):
    if f.startswith("="):
        return f[1:]
    for k in f.split("."):
        j = j.get(k) if isinstance(j, dict) else None
    return None if j is None else str(j)


def leader():
    l = S["leader"]
    for i in procs:
        if procs[i].poll() is None:
            try:
                j = json.loads(http(f"http://{HOST[i]}{l['path']}", method=l.get("method", "GET"), data=l["body"].encode() if "body" in l else None, timeout=1)[1])
                a, b = (field(j, f) for f in l["eq"])
                if a is not None and a == b:
                    return i
            except Exception:
                pass
    return None


shutil.rmtree(D, ignore_errors=True)
D.mkdir(parents=True)
t = time.monotonic()
for i in range(N):
    start(i)
wait_for(lambda: all(ready(i) for i in range(N)) and leader() is not None)
row(A.out, peer=NAME, nodes=N, what="cold start, all nodes ready and a leader", secs=round(time.monotonic() - t, 3))
row(A.out, peer=NAME, nodes=N, what="rss_kib idle", per_node=[rss_kib(procs[i].pid) for i in range(N)])
W = {"proto": "http", **S["write"]}
seq = 0
for part in A.parts.split(","):
    L = leader()
    if part == "size":
        b0 = [du(D / f"n{i}") for i in range(N)]
        r = load(**W, targets=HOST[L], conns=64, secs=120, max=10000, start=seq)
        seq = r["next_seq"]
        time.sleep(1)
        b1 = [du(D / f"n{i}") for i in range(N)]
        row(A.out, peer=NAME, nodes=N, what="10k new records", ok=r["ok"], bad=r["bad"], rate=r["rate"],
            disk_allocated_bytes_growth_per_node=statistics.median(y[0] - x[0] for x, y in zip(b0, b1)),
            disk_total_allocated_per_node=statistics.median(y[0] for y in b1), rss_kib=[rss_kib(procs[i].pid) for i in range(N)])
        ts = []
        for k in range(3):
            i = (leader() + 1) % N
            stop(procs[i])
            t = time.monotonic()
            start(i)
            wait_for(lambda: ready(i))
            ts.append(round(time.monotonic() - t, 3))
        row(A.out, peer=NAME, nodes=N, what="one node restart to ready", secs=ts, median=statistics.median(ts))
    if part == "write":
        for c in map(int, A.conns.split(",")):
            cpu0, w0 = sum(cpu_ticks(p.pid) for p in procs.values()), time.monotonic()
            r = repeat(A.reps, **W, targets=HOST[L], conns=c, secs=A.secs, warm=A.warm, start=seq)
            seq = r["next_seq"]
            r["peer_cpu_cores"] = round((sum(cpu_ticks(p.pid) for p in procs.values()) - cpu0) / (time.monotonic() - w0), 2)
            row(A.out, peer=NAME, nodes=N, what="write to leader", **r)
    if part == "read":
        load(**W, targets=HOST[L], conns=16, secs=60, max=max(0, 1000 - seq), start=seq)
        seq = max(seq, 1000)
        for w, kw in S.get("reads", {}).items():
            for where, tgt in (("leader", HOST[L]), ("follower", HOST[(L + 1) % N])):
                for c in map(int, A.conns.split(",")):
                    row(A.out, peer=NAME, nodes=N, what=f"{w} on {where}", **repeat(A.reps, proto="http", **kw, targets=tgt, conns=c, secs=A.secs, warm=A.warm))
    if part == "bench":
        # The service's own generator, if it has one: what it prints last is JSON.
        for c in map(int, A.conns.split(",")):
            cmd = [a.replace("{target}", HOST[L]).replace("{conns}", str(c)).replace("{secs}", str(A.secs)) for a in S["bench"]]
            o = json.loads(subprocess.run(cmd, capture_output=True, text=True, check=True).stdout)
            k = o["kinds"][0]
            row(A.out, peer=NAME, nodes=N, what="write to leader, own generator", conns=c, rate=k["per_second"], p50_us=k["p50"] * 1000, p99_us=k["p99"] * 1000,
                bad=sum(o["errors"].values()), gen_cpu_share=o["generator_processors"])
    if part == "failover":
        rs = []
        for k in range(A.failovers):
            wait_for(lambda: leader() is not None and all(ready(i) for i in range(N)))
            L = leader()
            tr = str(D / f"trace{k}")
            w = failover_writer(tr, **{k_: v for k_, v in W.items() if k_ != "follow"}, targets=",".join(HOST[i] for i in range(N) if i != L), conns=N - 1,
                                secs=A.fail_secs, timeout_ms=100, retry_ms=5, start=seq, follow=W.get("follow", False))
            time.sleep(1.5)
            tk = time.monotonic_ns()
            procs[L].kill()
            o = json.loads(w.communicate(timeout=A.fail_secs + 60)[0])
            seq = o["next_seq"]
            procs[L].wait()
            f = failover_result(tr, tk)
            f["codes"] = o["codes"]
            rs.append(f)
            start(L)
            wait_for(lambda: ready(L))
            row(None, rep=k, **f)
        v = [x["kill_to_recovered_ms"] for x in rs if x.get("kill_to_recovered_ms") is not None]
        row(A.out, peer=NAME, nodes=N, what="failover kill -9 leader (ms)", **({"median": statistics.median(v), "max": max(v), "min": min(v)} if v else {}), all=v, unrecovered=len(rs) - len(v))
row(A.out, peer=NAME, nodes=N, what="rss_kib end", per_node=[rss_kib(procs[i].pid) for i in range(N)])
for p in procs.values():
    stop(p)
shutil.rmtree(D, ignore_errors=True)
