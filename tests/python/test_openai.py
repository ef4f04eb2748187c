"""The official openai client, unchanged, against the gateway's OpenAI surface."""

import json
import os
import socket
import stat
import subprocess
import tempfile
import unittest
from pathlib import Path

import openai
from openai import OpenAI

from server import Server

GATEWAY = os.environ["GATEWAY_EXAMPLE"]
TALK = [{"role": "system", "content": "Repeat."}, {"role": "user", "content": "one two three four"}]


class Gateway(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.server = Server()
        cls.token_file = Path(cls.folder.name, "token")
        cls.child = subprocess.Popen(
            [GATEWAY, cls.server.url, str(cls.token_file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        cls.url = json.loads(cls.child.stdout.readline())["url"]
        cls.token = cls.token_file.read_text()
        cls.client = OpenAI(base_url=f"{cls.url}/v1", api_key=cls.token)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.child.stdin.close()
        cls.child.wait(20)
        cls.child.stdout.close()
        assert not cls.token_file.exists(), "the token's file goes with the process"
        cls.folder.cleanup()

    def refused(self, kind, status, code, model, stream=False, tries=1, **more):
        before = len(self.server.asked)
        with self.assertRaises(kind) as caught:
            self.client.chat.completions.create(model=model, messages=TALK, stream=stream, **more)
        error = caught.exception
        self.assertEqual((type(error), error.status_code, error.code), (kind, status, code))
        self.assertEqual(len(self.server.asked) - before, tries, "requests are not sent again behind the user's back")
        return error

    def test_the_token_is_the_api_key_and_its_file_is_the_owners_alone(self):
        self.assertEqual(stat.S_IMODE(self.token_file.stat().st_mode), 0o600)
        wrong = OpenAI(base_url=f"{self.url}/v1", api_key="0" * 64)
        with self.assertRaises(openai.AuthenticationError) as caught:
            wrong.models.list()
        self.assertEqual((caught.exception.status_code, caught.exception.code), (401, "invalid_api_key"))
        self.assertIn("TRB-G001", str(caught.exception))

    def test_models_are_listed_and_one_is_retrieved_by_its_id(self):
        self.assertIn("parrot", [model.id for model in self.client.models.list()])
        self.assertEqual(self.client.models.retrieve("parrot/slow").id, "parrot/slow")
        with self.assertRaises(openai.NotFoundError) as caught:
            self.client.models.retrieve("no-such-model")
        self.assertEqual((caught.exception.code, caught.exception.param), ("model_not_found", "model"))

    def test_a_chat_is_answered_whole(self):
        answer = self.client.chat.completions.create(
            model="parrot", messages=TALK, temperature=0, top_p=0.5, seed=7, stop=["END"], n=1, user="me"
        )
        choice = answer.choices[0]
        self.assertEqual((choice.message.role, choice.message.content), ("assistant", "one two three four"))
        self.assertEqual((choice.finish_reason, answer.model), ("stop", "parrot"))
        self.assertEqual((answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens), (4, 4, 8))
        sent = self.server.asked[-1]
        self.assertEqual((sent["temperature"], sent["top_p"], sent["seed"], sent["stop"]), (0, 0.5, 7, ["END"]))
        self.assertEqual([message["role"] for message in sent["messages"]], ["system", "user"])
        self.assertNotIn("user", sent, "what names the user stays here")

    def test_both_limits_of_tokens_hold_and_are_told(self):
        for limit in ({"max_tokens": 2}, {"max_completion_tokens": 2}):
            choice = self.client.chat.completions.create(model="parrot", messages=TALK, **limit).choices[0]
            self.assertEqual((choice.message.content, choice.finish_reason), ("one two", "length"))

    def test_a_chat_is_streamed_with_its_tokens_at_the_end_if_they_are_wanted(self):
        pieces = list(self.client.chat.completions.create(model="parrot", messages=TALK, stream=True))
        text = [piece.choices[0].delta.content or "" for piece in pieces]
        self.assertEqual("".join(text), "one two three four")
        self.assertEqual(pieces[-1].choices[0].finish_reason, "stop")
        self.assertEqual(pieces[0].choices[0].delta.role, "assistant")
        self.assertEqual(len({piece.id for piece in pieces}), 1)
        options = {"stream": True, "stream_options": {"include_usage": True}}
        *_, last = self.client.chat.completions.create(model="parrot", messages=TALK, **options)
        self.assertEqual((last.choices, last.usage.total_tokens), ([], 8))

    def test_each_piece_comes_before_the_next_one_is_made(self):
        stream = self.client.chat.completions.create(model="parrot/slow", messages=TALK, stream=True)
        words = []
        for piece in stream:
            if word := piece.choices[0].delta.content:
                words.append(word)
                self.server.go_on.set()
        self.assertEqual(words, ["one", " two", " three", " four"])

    def test_what_is_not_paid_is_402_with_what_to_do(self):
        for stream in (False, True):
            error = self.refused(openai.APIStatusError, 402, "payment_required", "unpaid", stream)
            self.assertIn("--buy", error.message)
            self.assertEqual(error.type, "insufficient_quota")
            self.refused(openai.APIStatusError, 402, "insufficient_funds", "poor", stream)

    def test_a_cap_is_429_and_not_tried_again(self):
        for stream in (False, True):
            error = self.refused(openai.RateLimitError, 429, "cap_reached", "capped", stream)
            self.assertIn("--max-per-day of 100", error.message)

    def test_a_provider_that_fails_is_502(self):
        self.refused(openai.InternalServerError, 502, "provider_failed", "broken")

    def test_one_that_is_busy_is_503_and_tried_again(self):
        self.refused(openai.InternalServerError, 503, "unavailable", "busy", tries=3)

    def test_a_provider_that_goes_in_mid_answer_is_an_error_and_no_short_answer(self):
        self.refused(openai.InternalServerError, 502, "provider_gone", "dying")
        stream = self.client.chat.completions.create(model="dying", messages=TALK, stream=True)
        text = ""
        with self.assertRaises(openai.APIError) as caught:
            for piece in stream:
                text += piece.choices[0].delta.content or ""
        self.assertEqual((text, caught.exception.code), ("one two", "provider_gone"))
        self.assertIn("TRB-G107", caught.exception.message)

    def test_no_provider_at_all_is_502(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
        token = Path(self.folder.name, "alone")
        child = subprocess.Popen([GATEWAY, nobody, str(token)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            url = json.loads(child.stdout.readline())["url"]
            client = OpenAI(base_url=f"{url}/v1", api_key=token.read_text())
            with self.assertRaises(openai.InternalServerError) as caught:
                client.chat.completions.create(model="parrot", messages=TALK)
            self.assertEqual((caught.exception.status_code, caught.exception.code), (502, "provider_gone"))
        finally:
            child.stdin.close()
            child.wait(20)
            child.stdout.close()

    def test_an_unknown_model_is_404_and_no_other_answers(self):
        error = self.refused(openai.NotFoundError, 404, "model_not_found", "parrot-2")
        self.assertEqual(error.param, "model")

    def test_what_is_not_offered_is_400_with_its_field(self):
        tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
        for param, options in (
            ("n", {"n": 2}),
            ("tools", {"tools": [tool]}),
            ("logprobs", {"logprobs": True}),
            ("response_format", {"response_format": {"type": "json_object"}}),
            ("temperature", {"temperature": 3}),
            ("max_tokens", {"max_tokens": 0}),
        ):
            error = self.refused(openai.BadRequestError, 400, "invalid_value", "parrot", tries=0, **options)
            self.assertEqual(error.param, param)

    def test_a_prompt_beyond_the_bound_is_413(self):
        with self.assertRaises(openai.APIStatusError) as caught:
            long = [{"role": "user", "content": "x" * (5 * 1024 * 1024)}]
            self.client.chat.completions.create(model="parrot", messages=long)
        self.assertEqual((caught.exception.status_code, caught.exception.code), (413, "request_too_large"))


if __name__ == "__main__":
    unittest.main()
