// What the providers of this test sell of others: a model behind an OpenAI-compatible port, and a page. Below /slow both begin and never end.
import { createServer } from 'node:http';

const MODEL = { id: 'parrot', object: 'model', created: 1700000000, owned_by: 'test' };

function chat(answer, slow) {
  const event = (value) => answer.write(`data: ${JSON.stringify(value)}\n\n`);
  const piece = (delta, reason) => event({ choices: [{ index: 0, delta, finish_reason: reason }] });
  answer.writeHead(200, { 'content-type': 'text/event-stream' });
  piece({ content: 'one' }, null);
  if (slow) return;
  piece({ content: ' two' }, 'stop');
  event({ choices: [], usage: { prompt_tokens: 1, completion_tokens: 2 } });
  answer.end('data: [DONE]\n\n');
}

const server = createServer((request, answer) => {
  const [, pace, ...path] = request.url.split('/');
  const slow = pace === 'slow';
  request.resume();
  if (path.join('/') === 'v1/models') {
    answer.writeHead(200, { 'content-type': 'application/json' });
    answer.end(JSON.stringify({ object: 'list', data: [MODEL] }));
  } else if (path.join('/') === 'v1/chat/completions') {
    chat(answer, slow);
  } else if (path.join('/') === 'error') {
    answer.writeHead(500, { 'content-type': 'text/plain' });
    answer.end('an error of its own');
  } else {
    // A megabyte is paid, read and passed on at a time.
    answer.writeHead(200, { 'content-type': 'text/plain', 'content-length': 1_500_000 });
    answer.write('one'.padEnd(1_200_000, '.'));
    if (!slow) answer.end('two'.padStart(300_000, '.'));
  }
});
server.listen(0, '127.0.0.1', () => {
  console.log(JSON.stringify({ role: 'servers', url: `http://127.0.0.1:${server.address().port}` }));
});
