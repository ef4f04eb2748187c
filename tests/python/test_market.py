"""The official openai client, unchanged, before `tributary gateway`, whose answers are bought on a market: a chain, providers, Waku relay."""

import json
import os
import signal
import subprocess
import unittest
from pathlib import Path

import openai
from openai import OpenAI

from server import Server

HERE = Path(__file__).parent
TALK = [{"role": "user", "content": "one two three four"}]


class Market(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.market = subprocess.Popen(
            [HERE / "market"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "BACKEND": cls.server.url},
        )
        line = cls.market.stdout.readline()
        assert line, "the market did not come up"
        cls.told = json.loads(line)
        cls.clients = {name: cls.client(name) for name in ("buyer", "thrifty", "poor")}

    @classmethod
    def client(cls, name):
        gateway = cls.told[name]
        token = Path(gateway["token_file"]).read_text()
        return OpenAI(base_url=f"{gateway['url']}/v1", api_key=token)

    @classmethod
    def tearDownClass(cls):
        for client in cls.clients.values():
            client.close()
        cls.market.stdin.close()
        cls.market.wait(60)
        cls.market.stdout.close()

    def ask(self, who, **options):
        return self.clients[who].chat.completions.create(**{"model": "parrot", "messages": TALK, **options})

    def test_1_the_models_on_offer_are_listed(self):
        ids = [model.id for model in self.clients["buyer"].models.list()]
        self.assertEqual(sorted(ids), ["parrot", "parrot/slow"])

    def test_2_a_chat_is_answered_and_bought_on_the_way(self):
        answer = self.ask("buyer", temperature=0, top_p=0.5, seed=7, stop=["END"], user="me")
        choice = answer.choices[0]
        self.assertEqual((choice.message.content, choice.finish_reason), ("one two three four", "stop"))
        self.assertEqual((answer.usage.prompt_tokens, answer.usage.completion_tokens), (4, 4))
        sent = self.server.asked[-1]
        self.assertEqual((sent["temperature"], sent["top_p"], sent["seed"], sent["stop"]), (0, 0.5, 7, ["END"]))
        self.assertNotIn("user", sent)

    def test_3_a_chat_is_streamed(self):
        options = {"stream": True, "stream_options": {"include_usage": True}}
        *pieces, last = self.ask("buyer", **options)
        text = [piece.choices[0].delta.content or "" for piece in pieces]
        self.assertEqual(("".join(text), pieces[-1].choices[0].finish_reason), ("one two three four", "stop"))
        self.assertEqual(last.usage.total_tokens, 8)
        cut = self.ask("buyer", max_tokens=2).choices[0]
        self.assertEqual((cut.message.content, cut.finish_reason), ("one two", "length"))

    def test_4_what_nothing_pays_for_is_402_with_what_to_do(self):
        with self.assertRaises(openai.APIStatusError) as caught:
            self.ask("poor")
        self.assertEqual((caught.exception.status_code, caught.exception.code), (402, "payment_required"))
        self.assertIn("--buy", caught.exception.message)

    def test_5_a_cap_is_429_and_nothing_is_bought(self):
        with self.assertRaises(openai.RateLimitError) as caught:
            self.ask("thrifty")
        self.assertEqual(caught.exception.code, "cap_reached")
        self.assertIn("--max-purchase of 1000", caught.exception.message)

    def test_6_a_model_that_nobody_sells_is_404(self):
        with self.assertRaises(openai.NotFoundError) as caught:
            self.ask("buyer", model="parrot-2")
        self.assertEqual(caught.exception.code, "model_not_found")

    def test_7_a_provider_that_is_killed_in_mid_answer_is_a_typed_error(self):
        stream = self.ask("buyer", model="parrot/slow", stream=True)
        text = ""
        with self.assertRaises(openai.APIError) as caught:
            for piece in stream:
                if word := piece.choices[0].delta.content:
                    text += word
                    os.kill(self.told["pid"], signal.SIGKILL)
        self.assertEqual((text, caught.exception.code), ("one", "provider_gone"))
        # It was the only one: the next choice leaves it out.
        with self.assertRaises(openai.NotFoundError) as caught:
            self.ask("buyer", model="parrot/slow")
        self.assertEqual(caught.exception.code, "model_not_found")
        # Others go on.
        self.assertEqual(self.ask("buyer").choices[0].message.content, "one two three four")


if __name__ == "__main__":
    unittest.main()
