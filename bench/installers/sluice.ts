/**
 * Our agent, as devices run it: the single file, with the flags of its unit, that fetches images from a real server
 * into a slot that is a file. Measured from the state *fetching* to *ready*: fetched, decompressed, written, flushed
 * and read back.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';
import { z } from 'zod';
import { MALLOC_ENVIRONMENT, NODE_FLAGS } from '#agent/process/node-flags.ts';
import { makeBlock } from '#agent/slots/selectors/grub-block.ts';
import type { Client } from '#cli/client.ts';
import { checkBundle, publishRelease } from '#cli/publish.ts';
import { routes } from '#shared/api.ts';
import { createBundle } from '#shared/create-bundle.ts';
import { Compatible, Id, releaseRef, Version } from '#shared/ids.ts';
import { publicKeyPem } from '#shared/trust/keys.ts';
import { generatePrivateKey, type Signer, signerFromPem } from '#shared/trust/signers.ts';
import { startServerProcess } from '#test/server/process.ts';
import { type Installer, type Measured, memoryOf, run } from './measure.ts';
import type { Payload } from './payload.ts';

const PRODUCT = Id.parse('bench');
const COMPATIBLE = Compatible.parse('bench');
const WAIT_MS_MAX = 600_000;
const ROOT = join(import.meta.dirname, '..', '..');

const Line = z.object({ event: z.string(), time: z.iso.datetime(), state: z.string().optional() });
type Line = z.infer<typeof Line>;

/** What the agent costs while nothing is installed. */
export type Costs = { fileBytes: number; startedMs: number[]; idleMB: number[] };
export type Site = { installer: Installer; costs: Costs; stop(): Promise<void> };

/** A server, the agent's file, and a new device for each installation. */
export const openSite = async (work: string, idleMs: number): Promise<Site> => {
  const file = join(work, 'sluice-agent.cjs');
  run(process.execPath, [join(ROOT, 'node_modules/rolldown/bin/cli.mjs'), '-c', 'rolldown.config.ts'], ROOT, {
    SLUICE_AGENT_FILE: file,
  });
  const { processes, log, client } = await startServerProcess(work);
  const signer = signerFromPem(generatePrivateKey('ed25519'));
  if (!signer.ok) throw new Error(signer.detail);
  await client.call(routes.productCreate, { body: { name: PRODUCT, keys: [publicKeyPem(signer.value.key)] } });
  const site = { client, signer: signer.value, serverLog: log, file, work, idleMs };
  const costs: Costs = { fileBytes: (await stat(file)).size, startedMs: [], idleMB: [] };
  let releases = 0;
  const prepare: Installer['prepare'] = async (payload, folder, slot) => {
    releases += 1;
    const release = await publish(site, payload, folder, releases);
    let devices = 0;
    return () => {
      devices += 1;
      return installOnce(site, costs, {
        release,
        slot,
        payload,
        device: Id.parse(`device-${releases}-${devices}`),
        folder,
      });
    };
  };
  return { installer: { name: 'sluice', lacks: undefined, prepare }, costs, stop: () => processes.stop() };
};

type Known = { client: Client; signer: Signer; serverLog: string; file: string; work: string; idleMs: number };

/** Staged, with the pack of a device that has nothing yet. */
const publish = async (
  { client, signer, serverLog }: Known,
  { file }: Payload,
  folder: string,
  number: number,
): Promise<ReturnType<typeof releaseRef>> => {
  const version = Version.parse(`${number}.0.0`);
  const out = join(folder, 'release.sluice');
  const health = { soakMs: 1_000, deadlineMs: 60_000, intervalMs: 1_000 };
  const bundle = await createBundle({
    manifest: { product: PRODUCT, version, compatible: COMPATIBLE, securityCounter: 1, health },
    artifacts: [{ name: 'image', file, install: { kind: 'image' } }],
    out,
  });
  if (!bundle.ok) throw new Error(bundle.detail);
  const steps = {
    checking: (checked: string) => checkBundle(checked),
    sending: (_: unknown, send: (onProgress: () => void) => Promise<void>) => send(() => {}),
    again: () => {},
  };
  const packs = await packsMade(serverLog);
  await publishRelease(client, { files: [out], signer, now: Date.now }, steps);
  const release = releaseRef(PRODUCT, version);
  await client.call(routes.releaseStage, { params: { release }, body: { channel: Id.parse('production') } });
  await until(`the pack of ${release}`, async () => (await packsMade(serverLog)) > packs);
  return release;
};

const packsMade = async (log: string): Promise<number> => (await readFile(log, 'utf8')).split('"pack-made"').length - 1;

const until = async (what: string, isSo: () => boolean | Promise<boolean>): Promise<void> => {
  const deadline = performance.now() + WAIT_MS_MAX;
  while (!(await isSo())) {
    if (performance.now() > deadline) throw new Error(`waited too long for ${what}`);
    await pause(20);
  }
};

type Case = { release: string; slot: string; payload: Payload; device: Id; folder: string };

/** A device is let in, starts again, idles, and is told to install. */
const installOnce = async (known: Known, costs: Costs, one: Case): Promise<Measured> => {
  const { client, idleMs } = known;
  const config = await makeDevice(known, one);
  const first = startAgent(known, config);
  try {
    await first.said('connected');
  } finally {
    // Asked to end, it leaves its compiled code for the next.
    await first.stop('SIGTERM');
  }
  const agent = startAgent(known, config);
  try {
    costs.startedMs.push(await agent.said('agent-started').then(() => agent.age()));
    await agent.said('connected');
    await pause(idleMs);
    costs.idleMB.push(await memoryOf(agent.pid, 'VmRSS'));
    const cohort = Id.parse(`only-${one.device}`);
    await client.call(routes.cohortCreate, { body: { name: cohort, devices: [one.device] } });
    const body = { release: one.release, cohorts: [{ cohort }] };
    const { id } = await client.call(routes.rolloutCreate, { body });
    const fetching = await agent.said('state-entered', 'fetching');
    const ready = await agent.said('state-entered', 'ready');
    const rssMB = await memoryOf(agent.pid, 'VmHWM');
    await client.call(routes.rolloutAbort, { params: { rollout: id }, body: { note: 'measured' } });
    return { ms: Date.parse(ready.time) - Date.parse(fetching.time), rssMB };
  } finally {
    await agent.stop('SIGKILL');
  }
};

/** It runs from slot A, boots with GRUB, and never comes back from its reboot. */
const makeDevice = async ({ client }: Known, { slot, payload, device, folder }: Case): Promise<string> => {
  const dir = join(folder, device);
  await mkdir(dir);
  const at = (name: string): string => join(dir, name);
  await writeFile(at('slot-a'), Buffer.alloc(payload.slotBytes > 2 ** 22 ? 2 ** 20 : payload.slotBytes));
  await writeFile(at('grubenv'), makeBlock({ ORDER: 'A B', A_OK: '1', A_TRY: '0', B_OK: '1', B_TRY: '0' })!);
  await writeFile(at('cmdline'), 'sluice.slot=a\n');
  const { tokens } = await client.call(routes.enrolmentTokenCreate, { body: { device } });
  const config = {
    device,
    compatible: COMPATIBLE,
    serverUrl: client.url,
    token: tokens[0],
    trustOnFirstUse: true,
    dataDir: at('data'),
    slots: {
      kind: 'image',
      a: at('slot-a'),
      b: slot,
      selector: { kind: 'grub', environment: at('grubenv') },
      running: { by: 'command-line', file: at('cmdline') },
      reboot: ['true'],
    },
  };
  await writeFile(at('agent.json'), JSON.stringify(config));
  return at('agent.json');
};

type RunningAgent = {
  pid: number;
  /** Milliseconds since it was started, when the newest line was read. */
  age(): number;
  /** Resolves with the first line of this event, and state. */
  said(event: string, state?: string): Promise<Line>;
  stop(signal: 'SIGTERM' | 'SIGKILL'): Promise<void>;
};

const startAgent = ({ file, work }: Known, config: string): RunningAgent => {
  const began = performance.now();
  const child: ChildProcess = spawn(process.execPath, [...NODE_FLAGS, file, '--config', config], {
    env: { PATH: process.env['PATH'], NODE_COMPILE_CACHE: join(work, 'cache'), ...MALLOC_ENVIRONMENT },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const lines: Line[] = [];
  const last: string[] = [];
  let ageMs = 0;
  for (const stream of [child.stdout!, child.stderr!])
    createInterface(stream).on('line', (text) => {
      last.push(text);
      if (last.length > 20) last.shift();
      if (!text.startsWith('{')) return;
      ageMs = performance.now() - began;
      const line = Line.safeParse(JSON.parse(text));
      if (line.success) lines.push(line.data);
    });
  const exited = once(child, 'exit');
  const find = (event: string, state: string | undefined): Line | undefined =>
    lines.find((line) => line.event === event && (state === undefined || line.state === state));
  return {
    pid: child.pid!,
    age: () => ageMs,
    said: async (event, state) => {
      const said = (): boolean => {
        if (child.exitCode !== null) throw new Error(`the agent has ended:\n${last.join('\n')}`);
        return find(event, state) !== undefined;
      };
      await until(`${event} ${state ?? ''}`, said).catch((error: unknown) => {
        throw new Error(`the agent said:\n${last.join('\n')}`, { cause: error });
      });
      return find(event, state)!;
    },
    stop: async (signal) => {
      child.kill(signal);
      await exited;
    },
  };
};
