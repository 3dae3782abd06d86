/** `sluice device`: the fleet, one device at a time or as a list. */
import { type Command, Option } from 'commander';
import { routes } from '#shared/api.ts';
import { type Id, releaseRef } from '#shared/ids.ts';
import type { DeviceLogView, DeviceView } from '#shared/views.ts';
import type { Client } from '../client.ts';
import { listAll } from '../client.ts';
import { connect, type ServerFlags, withExamples, withServer } from '../command.ts';
import { type Cell, facts, formatAgo, formatTime, harmless, paint, print, printJson, table } from '../terminal.ts';
import { collect, duration, id, pair, wholeNumber } from '../values.ts';
import { addDrift } from './drift.ts';

const DEVICES_MAX = 100_000;

const runningOf = (device: Pick<DeviceView, 'running'>): string =>
  device.running === null ? '-' : releaseRef(device.running.product, device.running.version);
const tagsOf = (tags: Record<string, string>): string =>
  Object.entries(tags)
    .map(([name, value]) => `${name}=${value}`)
    .join(' ');
const presenceOf = (device: DeviceView): Cell => {
  if (device.state !== 'accepted') return { text: device.state, paint: paint.yellow };
  const { refused } = device.attributes;
  const presence = !device.online ? 'offline' : device.healthy === false ? 'unhealthy' : 'online';
  const colour = { offline: paint.dim, unhealthy: paint.red, online: paint.green }[presence];
  if (refused === undefined) return { text: presence, paint: colour };
  const text = presence === 'online' ? `refuses: ${refused}` : `${presence}, refuses: ${refused}`;
  return { text, paint: presence === 'unhealthy' ? colour : paint.yellow };
};

const sharedKeyOf = ({ keySharedAt }: DeviceView): [string, Cell][] =>
  keySharedAt === null
    ? []
    : [['key', { text: `two devices use this key, seen ${formatAgo(keySharedAt, Date.now())}`, paint: paint.red }]];

const showDevice = (device: DeviceView): void => {
  const pairs: [string, Cell][] = [
    ['device', { text: device.id, paint: paint.bold }],
    ['state', presenceOf(device)],
    ['runs', runningOf(device)],
    ['slot', device.running?.slot ?? '-'],
    ['compatible', device.compatible],
    ['security floor', device.floor],
    ['agent', device.agent ?? '-'],
    ['tags', tagsOf(device.tags) || '-'],
    ['attributes', tagsOf(device.attributes) || '-'],
    ['enrolled', formatTime(device.enrolledAt)],
    ['last seen', formatAgo(device.lastSeenAt, Date.now())],
    ['deployment', device.deployment ?? '-'],
    ['public key', device.publicKey],
    ...sharedKeyOf(device),
  ];
  print(facts(pairs));
};

const addList = (group: Command): void => {
  const list = withServer(group.command('list'))
    .description('List devices')
    .addOption(new Option('--state <state>', 'only these').choices(['pending', 'accepted', 'rejected']))
    .option('--selector <selector>', 'only those that match, as in cohorts')
    .option('--limit <n>', 'at most so many', wholeNumber, 1000)
    .action(async (flags: ServerFlags & { state?: DeviceView['state']; selector?: string; limit: number }) => {
      const client = await connect(flags);
      const { state, selector } = flags;
      const filter = { ...(state === undefined ? {} : { state }), ...(selector === undefined ? {} : { selector }) };
      const items = await listAll(
        (page) => client.call(routes.deviceList, { query: { ...page, ...filter } }),
        Math.min(flags.limit, DEVICES_MAX),
      );
      if (flags.json === true) return printJson(items);
      const now = Date.now();
      const rows = items.map((device) => [
        device.id,
        presenceOf(device),
        runningOf(device),
        device.compatible,
        formatAgo(device.lastSeenAt, now),
        tagsOf(device.tags),
      ]);
      print(table(['DEVICE', 'STATE', 'RUNS', 'COMPATIBLE', 'SEEN', 'TAGS'], rows));
    });
  withExamples(list, [
    ['Who waits to be let in?', 'sluice device list --state pending'],
    ['The ids of one site', "sluice device list --selector 'site=lyon' --json | jq -r '.[].id'"],
  ]);
};

/** Commands that take a device, do one thing, and show the device. */
const addSimple = (
  group: Command,
  name: string,
  description: string,
  example: [string, string],
  run: (client: Client, device: Id) => Promise<DeviceView>,
): void => {
  const command = withServer(group.command(name))
    .description(description)
    .argument('<device>', 'its id', id)
    .action(async (device: Id, flags: ServerFlags) => {
      const view = await run(await connect(flags), device);
      if (flags.json === true) return printJson(view);
      showDevice(view);
    });
  withExamples(command, [example]);
};

const addHistory = (group: Command): void => {
  const history = withServer(group.command('history'))
    .description('Which release ran when, from receipts that the device signed; newest first')
    .argument('<device>', 'its id', id)
    .option('--limit <n>', 'at most so many', wholeNumber, 100)
    .action(async (device: Id, flags: ServerFlags & { limit: number }) => {
      const client = await connect(flags);
      const fetchPage = (query: { after?: string; limit: number }) =>
        client
          .call(routes.deviceHistory, { params: { device }, query })
          .then(({ entries, next }) => ({ items: entries, next }));
      const items = await listAll(fetchPage, flags.limit);
      if (flags.json === true) return printJson(items);
      const rows = items.map((entry): Cell[] => [
        formatTime(entry.at),
        entry.release ?? '',
        outcomeOf(entry.outcome),
        entry.verified === null
          ? ''
          : entry.verified
            ? { text: 'verified', paint: paint.green }
            : { text: 'BAD', paint: paint.red },
        entry.sentence,
      ]);
      print(table(['WHEN', 'RELEASE', 'OUTCOME', 'RECEIPT', 'WHAT'], rows));
    });
  withExamples(history, [['What has this device run?', 'sluice device history gw-01']]);
};
const addLogs = (group: Command): void => {
  type Flags = ServerFlags & { deployment?: Id; limit: number };
  const logs = withServer(group.command('logs'))
    .description('What the device and its application last wrote before failures; the newest last')
    .argument('<device>', 'its id', id)
    .option('--deployment <id>', 'only of this deployment', id)
    .option('--limit <n>', 'at most so many pieces', wholeNumber, 20)
    .action(async (device: Id, flags: Flags) => {
      const client = await connect(flags);
      const filter = flags.deployment === undefined ? {} : { deployment: flags.deployment };
      const items = await listAll(
        (page) => client.call(routes.deviceLogs, { params: { device }, query: { ...page, ...filter } }),
        flags.limit,
      );
      if (flags.json === true) return printJson(items);
      if (items.length === 0) return print('no logs: devices send them when a deployment fails');
      for (const piece of items.toReversed()) showPiece(piece);
    });
  withExamples(logs, [
    ['Why did it revert?', 'sluice device logs gw-01'],
    ['As text, of one deployment', "sluice device logs gw-01 --deployment dep-7 --json | jq -r '.[].text'"],
  ]);
};
/** Each line is made harmless: an application may have written anything. */
const showPiece = (piece: DeviceLogView): void => {
  const which = piece.deployment === null ? 'no deployment' : `deployment ${piece.deployment}`;
  const part = piece.parts > 1 ? `, part ${piece.part} of ${piece.parts}` : '';
  print(paint.bold(`${formatTime(piece.receivedAt)}  ${piece.source}, ${which}${part}`));
  for (const line of piece.text.trimEnd().split('\n')) print(`  ${harmless(line.replaceAll('\t', '    '))}`);
};
const outcomeOf = (outcome: string | null): Cell => {
  if (outcome === null) return '';
  return { text: outcome, paint: outcome === 'committed' ? paint.green : paint.yellow };
};

const addToken = (group: Command): void => {
  type Flags = ServerFlags & { device?: Id; count: number; tag?: [string, string][]; expires: number };
  const token = withServer(group.command('token'))
    .description('Make single-use enrolment tokens, one a line; each also tells the device whom to trust')
    .option(
      '--device <id>',
      'only this device may use it; when it was wiped or replaced, it comes back with its new key',
      id,
    )
    .option('--count <n>', 'how many', wholeNumber, 1)
    .option('--tag <name=value>', 'the device gets this tag; repeatable', collect(pair))
    .addOption(new Option('--expires <time>', 'how long it may be used').argParser(duration).default(86_400_000, '24h'))
    .action(async (flags: Flags) => {
      const body = {
        count: flags.count,
        tags: Object.fromEntries(flags.tag ?? []),
        expiresInMs: flags.expires,
        ...(flags.device === undefined ? {} : { device: flags.device }),
      };
      const made = await (await connect(flags)).call(routes.enrolmentTokenCreate, { body });
      if (flags.json === true) return printJson(made);
      for (const one of made.tokens) print(one);
    });
  withExamples(token, [
    ['For one device', 'sluice device token --device gw-01 --tag site=lyon'],
    ['gw-01 lost its key, or another machine took its place', 'sluice device token --device gw-01'],
    ['A hundred for the factory, good for a month', 'sluice device token --count 100 --expires 30d > tokens.txt'],
  ]);
};

export const addDevice = (program: Command): void => {
  const group = program.command('device').description('Devices: who they are, what they run, what they ran');
  addList(group);
  addSimple(
    group,
    'show',
    'Show one device',
    ['Everything known of it', 'sluice device show gw-01'],
    (client, device) => client.call(routes.deviceShow, { params: { device } }),
  );
  addHistory(group);
  addLogs(group);
  addSimple(
    group,
    'accept',
    'Let a pending device in',
    ['It enrolled without a token', 'sluice device accept gw-09'],
    (client, device) => client.call(routes.deviceAccept, { params: { device } }),
  );
  addSimple(
    group,
    'reject',
    'Keep a device out, connected or not',
    ['It was stolen', 'sluice device reject gw-09'],
    (client, device) => client.call(routes.deviceReject, { params: { device } }),
  );
  addToken(group);
  const tag = withServer(group.command('tag'))
    .description('Set tags; an empty value removes one')
    .argument('<device>', 'its id', id)
    .argument('<name=value...>', 'the tags', collect(pair))
    .action(async (device: Id, tags: [string, string][], flags: ServerFlags) => {
      const call = { params: { device }, body: { tags: Object.fromEntries(tags) } };
      const view = await (await connect(flags)).call(routes.deviceTag, call);
      if (flags.json === true) return printJson(view);
      showDevice(view);
    });
  withExamples(tag, [['Make it a canary, no longer a spare', 'sluice device tag gw-01 ring=canary spare=']]);
  addDrift(group);
};
