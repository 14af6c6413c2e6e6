"""Shared helpers for the peer benches. Standard library only. Everything is on 127.0.0.1 and bounded."""
import json, os, pathlib, signal, statistics, subprocess, sys, time, urllib.request, socket, atexit

HERE = pathlib.Path(__file__).resolve().parent
TARGET = HERE.parents[1] / "target" / "peers"
WORK = pathlib.Path(os.environ.get("PEERS_WORK", TARGET / "work"))
LOADGEN = os.environ.get("PEERS_LOADGEN") or str(TARGET / "release" / "loadgen")
_procs = []


signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))   # so that a timeout(1) still ends the started processes


def build_loadgen():
    if not os.path.exists(LOADGEN):
        tgt = pathlib.Path(LOADGEN).parents[1]
        subprocess.run(["cargo", "build", "--release", "-q"], cwd=HERE / "loadgen", check=True,
                       env={**os.environ, "CARGO_TARGET_DIR": str(tgt)})


def spawn(cmd, log, cwd=None, env=None):
    """Start a process in a session of its own; it is ended at exit by its pid."""
    f = open(log, "ab")
    p = subprocess.Popen(cmd, stdout=f, stderr=f, stdin=subprocess.DEVNULL, cwd=cwd, env=env)
    _procs.append(p)
    return p


def stop(p, sig=signal.SIGTERM, wait=10):
    if p.poll() is None:
        p.send_signal(sig)
        try:
            p.wait(wait)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait(5)


@atexit.register
def _cleanup():
    for p in _procs:
        if p.poll() is None:
            p.kill()
    for p in _procs:
        try:
            p.wait(5)
        except Exception:
            pass


def rss_kib(pid):
    for l in open(f"/proc/{pid}/status"):
        if l.startswith("VmRSS"):
            return int(l.split()[1])
    return 0


def cpu_ticks(pid):
    f = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(f[11]) + int(f[12])) / os.sysconf("SC_CLK_TCK")


def du(path):
    """(allocated bytes, apparent bytes) below path"""
    a = b = 0
    for r, _, fs in os.walk(path):
        for f in fs:
            try:
                s = os.stat(os.path.join(r, f))
            except FileNotFoundError:
                continue
            a += s.st_blocks * 512
            b += s.st_size
    return a, b


def http(url, data=None, timeout=2.0, method=None):
    if data is not None and not isinstance(data, bytes):
        data = json.dumps(data).encode()
    r = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": "application/json"} if data else {})
    with urllib.request.urlopen(r, timeout=timeout) as x:
        return x.status, x.read()


def wait_port(port, limit=60, pause=0.02):
    t = time.monotonic()
    while time.monotonic() - t < limit:
        try:
            socket.create_connection(("127.0.0.1", port), 0.5).close()
            return time.monotonic() - t
        except OSError:
            time.sleep(pause)
    raise RuntimeError(f"port {port} not open after {limit}s")


def wait_for(fn, limit=60, pause=0.02):
    t = time.monotonic()
    while time.monotonic() - t < limit:
        try:
            if fn():
                return time.monotonic() - t
        except Exception:
            pass
        time.sleep(pause)
    raise RuntimeError("condition not met in %ss" % limit)


def load(**kw):
    """Run loadgen to its end, return its JSON line. Keyword names map to --flags (_ to -)."""
    follow = kw.pop("follow", False)
    cmd = [LOADGEN]
    for k, v in kw.items():
        cmd += ["--" + k.replace("_", "-"), str(v)]
    if follow:
        cmd.append("--follow")
    lim = float(kw.get("secs", 5)) + float(kw.get("warm", 0)) + float(kw.get("timeout_ms", 10000)) / 1000 + 30
    out = subprocess.run(cmd, capture_output=True, text=True, timeout=lim)
    if out.returncode:
        raise RuntimeError(out.stderr[-2000:])
    return json.loads(out.stdout.strip().splitlines()[-1])


def repeat(n, **kw):
    """n runs; medians of the figures, plus min/max of the rate."""
    rs = []
    for _ in range(n):
        r = load(**kw)
        if "start" in kw:
            kw["start"] = r["next_seq"]
        rs.append(r)
    m = dict(rs[0])
    for k in ("rate", "mean_us", "p50_us", "p90_us", "p99_us", "p999_us", "max_us", "gen_cpu_share"):
        m[k] = statistics.median(x[k] for x in rs)
    m["rates"] = [x["rate"] for x in rs]
    m["bad"] = sum(x["bad"] for x in rs)
    c = {}
    for x in rs:
        for k, v in x["codes"].items():
            c[k] = c.get(k, 0) + v
    m["codes"] = c
    m["next_seq"] = rs[-1]["next_seq"]
    m["runs"] = n
    return m


def row(sink, **kw):
    kw["t"] = time.strftime("%H:%M:%S")
    kw["loadavg"] = os.getloadavg()[0]
    print(json.dumps(kw), flush=True)
    if sink:
        with open(sink, "a") as f:
            f.write(json.dumps(kw) + "\n")


def failover_writer(trace, **kw):
    """Start a closed-loop writer in the background (loadgen with a trace file)."""
    follow = kw.pop("follow", False)
    cmd = [LOADGEN]
    for k, v in {**kw, "trace": trace}.items():
        cmd += ["--" + k.replace("_", "-"), str(v)]
    if follow:
        cmd.append("--follow")
    p = subprocess.Popen(cmd, stdout=subprocess.PIPE, text=True)
    _procs.append(p)
    return p


def failover_result(trace, t_kill_ns):
    """ms from the kill to the end of the first success that STARTED after the kill and that ends an outage,
    and the longest gap between two successes that spans or follows the kill."""
    ok = []
    for l in open(trace):
        a, b, conn, tgt, code, n = (int(x) for x in l.split())
        if 200 <= code < 300:
            ok.append((b, a, n))
    ok.sort()
    before = [b for b, a, n in ok if b <= t_kill_ns]
    after = [(b, a) for b, a, n in ok if b > t_kill_ns]
    res = {"ok_before": len(before), "ok_after": len(after)}
    # The outage: the longest gap between consecutive successes from just before the kill on.
    pts = ([before[-1]] if before else [t_kill_ns]) + [b for b, _ in after]
    gaps = [(y - x, x, y) for x, y in zip(pts, pts[1:])]
    if gaps:
        g = max(gaps)
        res["gap_ms"] = round(g[0] / 1e6, 1)
        res["kill_to_recovered_ms"] = round((g[2] - t_kill_ns) / 1e6, 1)
        started = [b for b, a in after if a > t_kill_ns]
        res["first_ok_after_kill_ms"] = round((started[0] - t_kill_ns) / 1e6, 1) if started else None
    return res
