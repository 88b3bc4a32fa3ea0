"""A server that speaks the chat-completions protocol as badly as it is told to."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VERDICT = '{"verdict": "keep", "reason": "soft streaks as in the real images"}'


def completion(content, finish_reason="stop"):
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish_reason}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        self.reply(200, json.dumps({"object": "list", "data": [{"id": "rain-judge-8b", "object": "model"}]}), {})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = self.server.begin(request, self.headers)
        try:
            answer = answer(request) if callable(answer) else answer
            status, body, headers = (200, json.dumps(completion(answer)), {}) if isinstance(answer, str) else answer
            if isinstance(body, str):
                body = body.replace("AUTHORIZATION", self.headers["Authorization"])
            self.reply(status, body, {**headers, "X-Echo": self.headers["Authorization"]})
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with self.server.lock:
                self.server.busy -= 1

    def reply(self, status, body, headers):
        if status == "drop":
            self.connection.close()
            return
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        if body == "endless":
            self.end_headers()
            while True:
                self.wfile.write(b"x" * 65536)
        if body == "dribble":
            self.end_headers()
            for _ in range(200):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.05)
            return
        if body == "slow header":  # of a good reply
            self.send_header("X-Slow", "x" * 50)
            for byte in b"".join(self._headers_buffer):
                self.wfile.write(bytes([byte]))
                time.sleep(0.01)
            self._headers_buffer = []
            body = json.dumps(completion(VERDICT))
        data = body if isinstance(body, bytes) else body.encode()
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class FakeServer(ThreadingHTTPServer):
    """``answers`` is a list of what to do, one a request, the last for all further ones: a text (the model's reply), a
    function of the request, or a tuple (status, body, headers). ``AUTHORIZATION`` becomes the value of that header."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answers):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.answers = list(answers) or [VERDICT]
        self.requests, self.headers = [], []
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()

    def handle_error(self, *args):
        pass

    def begin(self, request, headers):
        with self.lock:
            self.requests.append(request)
            self.headers.append({name.lower(): value for name, value in headers.items()})
            self.busy += 1
            self.most_busy = max(self.busy, self.most_busy)
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def serve(*answers):
    with FakeServer(answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
