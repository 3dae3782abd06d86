/** A firewall between an agent and its server: counts what comes through, and can be shut. */
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { onTestFinished } from 'vitest';

export const openProxy = async (toPort: number) => {
  const sockets = new Set<Socket>();
  const state = { shut: false, bytesDown: 0, refused: 0 };
  const server = createServer((near) => {
    if (state.shut) {
      state.refused += 1;
      near.destroy();
      return;
    }
    const far = connect(toPort, '127.0.0.1');
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(one);
      one.on('error', () => other.destroy());
      one.on('close', () => {
        sockets.delete(one);
        other.destroy();
      });
    }
    far.on('data', (bytes) => {
      state.bytesDown += bytes.length;
    });
    near.pipe(far);
    far.pipe(near);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const destroyAll = (): void => {
    for (const socket of sockets) socket.destroy();
  };
  onTestFinished(async () => {
    destroyAll();
    server.close();
  });
  return {
    state,
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    shut: () => {
      state.shut = true;
      destroyAll();
    },
    open: () => {
      state.shut = false;
    },
  };
};
