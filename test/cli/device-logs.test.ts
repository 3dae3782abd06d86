import { once } from 'node:events';
import { createServer } from 'node:http';
import { expect, onTestFinished, test } from 'vitest';
import { runSluice } from './run.ts';

const PIECE = {
  id: 'piece-1',
  deployment: 'dep-1',
  source: 'application',
  part: 1,
  parts: 2,
  boot: 'boot-1',
  at: 5,
  receivedAt: 7,
  text: 'first\tline\n\u001b[2J\u001b]0;title\u0007\u202egnp.exe\nlast line\n',
};

test('whatever a device has written, nothing of it acts on the terminal; --json has it as it is', async () => {
  const server = createServer((_request, response) => {
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ items: [PIECE, { ...PIECE, id: 'piece-0', text: 'older\n' }], next: null }));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => void server.close());
  const address = server.address();
  const url = `http://127.0.0.1:${typeof address === 'object' ? address!.port : 0}`;
  const environment = { SLUICE_URL: url, SLUICE_TOKEN: 'slo_x' };
  const shown = await runSluice(['device', 'logs', 'gw-01'], { environment });
  expect(shown.err).toBe('');
  expect(shown.out.split('\n').slice(-6)).toEqual([
    '  older',
    expect.stringMatching(/application, deployment dep-1, part 1 of 2$/),
    '  first    line',
    expect.stringMatching(/gnp\.exe$/),
    '  last line',
    '',
  ]);
  expect(shown.out).not.toMatch(/[^\P{C}\n]/u);
  const json = await runSluice(['device', 'logs', 'gw-01', '--json'], { environment });
  expect(JSON.parse(json.out)).toMatchObject([PIECE, { text: 'older\n' }]);
});
