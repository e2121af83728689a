#!/usr/bin/env python3
"""Three gateways on one PostgreSQL ledger, and a minute in which everything is killed.

    cargo build -p semel && python3 examples/cluster/cluster.py            # a minute of killing
    cargo build -p semel && python3 examples/cluster/cluster.py --serve    # until ^C, nothing is killed

Starts PostgreSQL with a synchronous and an asynchronous standby, three gateways, a payment service that loses one
reply in twenty, and a load balancer. Callers pay through it, each with a key of its own, and repeat what failed.
Meanwhile gateways are killed and frozen, and the primary is killed and its standby promoted. The line that is
printed each second counts what was charged twice. It stays at zero, or the exit code is 1.

Needs Python 3.9, the PostgreSQL server's programs (Debian: postgresql) and, when run as root, the user postgres.
Everything lives in a temporary folder and on free ports, and is gone afterwards.
"""

import argparse, asyncio, glob, http.client, http.server, itertools, json, os, random, shutil, signal, socket
import subprocess, sys, tempfile, threading, time

GATEWAYS = 3
CALLERS = 8
ROLE = "semel"
CONFIG = """
listen = {{ http = "127.0.0.1:{http}", admin = "127.0.0.1:{admin}" }}
ledger.postgres = {{ url = "postgres://semel@{hosts}/postgres" }}
admin.token_file = "{folder}/admin.token"

[upstream.payments]
urls = ["http://127.0.0.1:{service}"]

[[route]]
match = "POST /pay"
to = "payments"
effect = "once"
timeout = {{ total = "8s", attempt = "3s" }}
idempotency = {{ principal = "none", lease = "2s" }}
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def until(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"{what} within {seconds} s")
        time.sleep(0.02)


class Postgres:
    """A server, or a standby of one."""

    programs = max(glob.glob("/usr/lib/postgresql/*/bin"), default=os.path.dirname(shutil.which("postgres") or ""))

    def __init__(self, folder, name, port):
        self.name, self.port, self.data, self.process = name, port, f"{folder}/{name}", None
        self.log = open(f"{folder}/{name}.log", "w")

    def run(self, program, *args, wait=True):
        # A server refuses to run as root.
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        command = as_user + [f"{self.programs}/{program}", *args]
        if wait:
            return subprocess.run(command, check=True, stdout=self.log, stderr=self.log, cwd="/")
        return subprocess.Popen(command, stdout=self.log, stderr=self.log, cwd="/")

    def configure(self, lines):
        with open(f"{self.data}/postgresql.conf", "a") as file:
            file.write(lines + "\n")

    def make(self):
        self.run("initdb", "-D", self.data, "-A", "trust", "-U", ROLE, "-E", "UTF8", "--locale=C", "--no-sync")
        self.configure(f"listen_addresses = '127.0.0.1'\nunix_socket_directories = ''\nport = {self.port}\n"
                       "shared_buffers = 32MB\nwal_retrieve_retry_interval = 500ms")

    def follow(self, primary, ports):
        self.run("pg_basebackup", "-h", "127.0.0.1", "-U", ROLE, "-p", str(primary.port), "-D", self.data, "-X", "stream",
                 "--checkpoint=fast", "--no-sync")
        hosts, ports = ",".join(["127.0.0.1"] * len(ports)), ",".join(map(str, ports))
        self.configure(f"port = {self.port}\nsynchronous_standby_names = ''\n"
                       f"primary_conninfo = 'host={hosts} port={ports} user={ROLE} application_name={self.name} "
                       "target_session_attrs=read-write'")
        open(f"{self.data}/standby.signal", "w").close()
        if os.geteuid() == 0:
            shutil.chown(f"{self.data}/standby.signal", "postgres")

    def start(self):
        self.process = self.run("postgres", "-D", self.data, wait=False)
        until(lambda: self.sql("SELECT 1") == "1", 30, f"PostgreSQL {self.name} did not start")

    def sql(self, statement):
        psql = ["psql", "-XqAt", "-h", "127.0.0.1", "-p", str(self.port), "-U", ROLE, "-d", "postgres", "-c", statement]
        done = subprocess.run(psql, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    def wait_for(self, standby):
        """Lets commits wait for a standby."""
        followed = f"SELECT count(*) FROM pg_stat_replication WHERE application_name = '{standby.name}'"
        until(lambda: self.sql(followed) == "1", 30, f"{standby.name} did not follow {self.name}")
        self.sql(f"ALTER SYSTEM SET synchronous_standby_names = '{standby.name}'")
        self.sql("SELECT pg_reload_conf()")

    def kill(self, how=signal.SIGKILL):
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait()


class Gateway:
    def __init__(self, binary, folder, number, **config):
        self.binary, self.name, self.http, self.admin = binary, f"gateway-{number}", free_port(), free_port()
        self.config, self.process = f"{folder}/{self.name}.toml", None
        self.log = open(f"{folder}/{self.name}.log", "w")
        with open(self.config, "w") as file:
            file.write(CONFIG.format(http=self.http, admin=self.admin, folder=folder, **config))

    def semel(self, *args):
        return subprocess.run([self.binary, *args, "-c", self.config], check=True, stdout=self.log, stderr=self.log)

    def start(self):
        self.process = subprocess.Popen([self.binary, "run", "-c", self.config], stdout=self.log, stderr=self.log)
        until(self.serves, 30, f"{self.name} did not start")

    def serves(self):
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.http)) == 0

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Service(http.server.BaseHTTPRequestHandler):
    """Charges, writes down under which key, and answers; sometimes it forgets to answer."""

    protocol_version, charges, lock = "HTTP/1.1", {}, threading.Lock()

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        key = self.headers["idempotency-key"]
        with self.lock:
            self.charges[key] = self.charges.get(key, 0) + 1
            number = len(self.charges)
        if random.random() < 0.05:
            self.close_connection = True
            return
        self.answer(201, {"charge": number})

    def do_GET(self):
        self.answer(200, counter())

    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def counter():
    with Service.lock:
        charged = list(Service.charges.values())
    return {"charged": len(charged), "duplicates": sum(charged) - len(charged)}


def balance(port, gateways):
    """Connections go to one gateway after another, past those that do not take them."""
    turn = itertools.count()

    async def pipe(reader, writer):
        try:
            while chunk := await reader.read(65536):
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader, writer):
        for _ in gateways:
            gateway = gateways[next(turn) % len(gateways)]
            try:
                there = await asyncio.open_connection("127.0.0.1", gateway.http)
            except OSError:
                continue
            await asyncio.gather(pipe(reader, there[1]), pipe(there[0], writer), return_exceptions=True)
            return
        writer.close()

    async def run():
        async with await asyncio.start_server(serve, "127.0.0.1", port) as server:
            await server.serve_forever()

    threading.Thread(target=lambda: asyncio.run(run()), daemon=True).start()


class Callers:
    """Pay with a key until they know what became of it."""

    def __init__(self, port):
        self.port, self.lock, self.stop = port, threading.Lock(), threading.Event()
        self.calls, self.answers, self.unknown, self.wrong = 0, {}, set(), []
        self.threads = [threading.Thread(target=self.work, args=(n,), daemon=True) for n in range(CALLERS)]

    def call(self, key):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        try:
            connection.request("POST", "/pay", '{"amount":10}',
                               {"idempotency-key": key, "content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.getheader("semel-effect"), answer.read()
        except (OSError, http.client.HTTPException):
            return None, None, b""
        finally:
            connection.close()
            with self.lock:
                self.calls += 1

    def work(self, n):
        for number in itertools.count():
            if self.stop.is_set():
                return
            self.pay(f"caller-{n}-{number}")

    def pay(self, key):
        while True:
            status, effect, body = self.call(key)
            with self.lock:
                if status == 201:
                    if self.answers.setdefault(key, body) != body:
                        self.wrong.append(key)
                    return
                if effect == "unknown":
                    if key in self.answers:
                        self.wrong.append(key)
                    self.unknown.add(key)
                    return
            time.sleep(0.05)


def kill_everything(seconds, gateways, servers, callers):
    first, second, third = servers
    end, promote_at = time.monotonic() + seconds, time.monotonic() + seconds / 2
    promoted, next_fault, what = False, time.monotonic() + 3, ""
    while time.monotonic() < end:
        if not promoted and time.monotonic() > promote_at:
            promoted, what = True, "the primary was killed, the synchronous standby promoted"
            first.kill()
            second.sql("SELECT pg_promote(true, 60)")
            threading.Thread(target=second.wait_for, args=(third,), daemon=True).start()
            next_fault = time.monotonic() + 3
        elif time.monotonic() > next_fault:
            victim = random.choice(gateways)
            if random.random() < 0.6:
                what = f"{victim.name} was killed"
                victim.kill()
                victim.start()
            else:
                what = f"{victim.name} was frozen past its leases"
                victim.process.send_signal(signal.SIGSTOP)
                threading.Timer(3, victim.process.send_signal, [signal.SIGCONT]).start()
            next_fault = time.monotonic() + 4
        time.sleep(1)
        state = counter()
        print(f"{seconds - (end - time.monotonic()):4.0f} s  calls {callers.calls:6}  charged {state['charged']:6}  "
              f"charged twice {state['duplicates']}  unknown {len(callers.unknown):4}  {what}", flush=True)
        what = ""
    time.sleep(3)


def judge(callers):
    """Everybody asks once more for everything that was answered."""
    callers.stop.set()
    for thread in callers.threads:
        thread.join(60)
    for key in list(callers.answers):
        callers.pay(key)
    state, answered = counter(), len(callers.answers)
    print(f"\n{callers.calls} calls, {state['charged']} charges, {state['duplicates']} charged twice; "
          f"{answered} answers, each given again; {len(callers.wrong)} of them lost or changed; "
          f"{len(callers.unknown)} unknown to everybody but the service, and not run again")
    return 0 if state["duplicates"] == 0 and not callers.wrong and answered else 1


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--serve", action="store_true", help="only start everything, and wait for ^C")
    arguments.add_argument("--seconds", type=int, default=45, help="how long things are killed (45)")
    arguments.add_argument("--semel", default="target/debug/semel", help="the gateway's program")
    given = arguments.parse_args()
    if not os.access(given.semel, os.X_OK):
        sys.exit(f"{given.semel} is not there: cargo build -p semel")
    if not os.access(f"{Postgres.programs}/initdb", os.X_OK):
        sys.exit("PostgreSQL is not installed (Debian package postgresql)")

    folder = tempfile.mkdtemp(prefix="semel-cluster-")
    servers, gateways = [], []
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
        ports = [free_port() for _ in range(3)]
        servers += [Postgres(folder, name, port) for name, port in zip(["first", "second", "third"], ports)]
        servers[0].make()
        servers[0].start()
        for standby in servers[1:]:
            standby.follow(servers[0], ports)
            standby.start()
        servers[0].wait_for(servers[1])

        service = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
        service.handle_error = lambda *_: None  # A killed gateway's connections break.
        threading.Thread(target=service.serve_forever, daemon=True).start()
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        for number in range(1, GATEWAYS + 1):
            gateways.append(Gateway(given.semel, folder, number, hosts=hosts, service=service.server_port))
        gateways[0].semel("ledger", "migrate")
        for gateway in gateways:
            gateway.start()
        address = free_port()
        balance(address, gateways)
        print(f"""
  pay       curl -i -XPOST http://127.0.0.1:{address}/pay -H 'Idempotency-Key: a1' -d '{{"amount":10}}'
  counter   curl http://127.0.0.1:{service.server_port}/counter
  gateways  {', '.join(f'http://127.0.0.1:{g.http} (admin {g.admin})' for g in gateways)}
  database  first, the primary: {ports[0]}; second, synchronous: {ports[1]}; third, asynchronous: {ports[2]}
  logs      {folder}
""", flush=True)
        if given.serve:
            signal.pause()
        callers = Callers(address)
        for thread in callers.threads:
            thread.start()
        kill_everything(given.seconds, gateways, servers, callers)
        return judge(callers)
    except KeyboardInterrupt:
        return 0
    finally:
        for gateway in gateways:
            gateway.kill()
        for server in reversed(servers):
            server.kill(signal.SIGQUIT)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
