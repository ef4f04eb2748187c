"""An OpenAI-compatible server: it repeats the last message word by word. Some models fail in their own way."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODELS = ["parrot", "parrot/slow", "unpaid", "poor", "capped", "busy", "broken", "dying"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def document(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        data = [{"id": name, "object": "model", "created": 1700000000, "owned_by": "test"} for name in MODELS]
        self.document(200, {"object": "list", "data": data})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(asked)
        refusals = {
            "unpaid": (402, {"message": "no open stream pays for this: start the gateway with --buy"}),
            "poor": (402, {"available": 5, "needed": 7}),
            "capped": (429, {"limit": 100, "spent": 100}),
            "busy": (503, {"message": "come back in a moment"}),
            "broken": (500, {}),
        }
        model = asked["model"]
        if model in refusals:
            return self.document(*refusals[model])
        if model not in MODELS:
            return self.document(404, {"model": model})
        words = asked["messages"][-1]["content"].split()
        allowed = words[: asked["max_tokens"]] if asked["max_tokens"] else words
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for i, word in enumerate(allowed):
            if model == "dying" and i == 2:
                # No end of the answer: the connection goes.
                self.close_connection = True
                return None
            self.piece({"delta": {"content": word if i == 0 else f" {word}"}})
            if model == "parrot/slow":
                if not self.server.go_on.wait(30):
                    return None
                self.server.go_on.clear()
        self.piece({"delta": {}, "finish_reason": "stop" if len(allowed) == len(words) else "length"})
        counted = {"prompt_tokens": len(words), "completion_tokens": len(allowed)}
        self.event({"choices": [], "usage": counted})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True
        return None

    def piece(self, choice):
        self.event({"choices": [{"index": 0, "finish_reason": None, **choice}]})

    def event(self, value):
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")
        self.wfile.flush()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []
        self.go_on = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"
