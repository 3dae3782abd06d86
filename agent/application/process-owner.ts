/**
 * As whom the application runs: its user, its group, and all groups that a login of that user would have, or the
 * configuration adds.
 */
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';

/** `groups` are the supplementary ones. */
export type ProcessOwner = { uid: number; gid: number; groups: number[] };

export type OwnerNames = { user: string | undefined; group: string | undefined; groups: readonly string[] };

type Sources = { users: string; groups: string; id: string };
const SYSTEM: Sources = { users: '/etc/passwd', groups: '/etc/group', id: 'id' };
const ID_MS_MAX = 10_000;
/** `id` takes a word with a dash for an option. */
const USER_NAME = /^[A-Za-z_][A-Za-z0-9_.@-]*\$?$/;

/**
 * Names or numbers; null is the agent's own user. `message` when there is no such user or group, or this process may
 * not become another.
 */
export const findOwner = async (
  { user, group, groups }: OwnerNames,
  sources: Sources = SYSTEM,
): Promise<{ ok: true; owner: ProcessOwner | null } | { ok: false; message: string }> => {
  if (user === undefined) {
    if (groups.length === 0) return { ok: true, owner: null };
    return { ok: false, message: 'application.groups are added to those of a user: set application.user as well' };
  }
  if (process.getuid?.() !== 0)
    return { ok: false, message: `application.user is ${user}, and only an agent that runs as root can change to it` };
  const [users, all] = [await entriesOf(sources.users), await entriesOf(sources.groups)];
  const entry = users.find((fields) => isNamed(fields, user));
  const told = await askSystem(sources.id, entry?.[0] ?? user);
  const uid = entry === undefined ? (told?.uid ?? numberOf(user)) : numberOf(entry[2]);
  if (uid === undefined) return { ok: false, message: `there is no user ${user}` };
  const gid = group === undefined ? (numberOf(entry?.[3]) ?? told?.gid) : groupNamed(all, group);
  if (gid === undefined) return { ok: false, message: `there is no group ${group ?? `for the user ${user}`}` };
  const unknown = groups.find((name) => groupNamed(all, name) === undefined);
  if (unknown !== undefined)
    return { ok: false, message: `there is no group ${unknown}, which application.groups names` };
  const found = [
    ...all.flatMap(([, , number, members]) => (isMember(members, entry?.[0]) ? (numberOf(number) ?? []) : [])),
    // As initgroups(3): another group takes the place of the user's own.
    ...(told?.groups.filter((one) => one !== told.gid) ?? []),
    ...groups.map((name) => groupNamed(all, name)!),
  ];
  return { ok: true, owner: { uid, gid, groups: [...new Set(found)].filter((one) => one !== gid) } };
};

/** What other sources than the two files know (LDAP and the like, nsswitch.conf(5)); `id` of BusyBox says it, too. */
const askSystem = async (id: string, user: string): Promise<ProcessOwner | undefined> => {
  if (!USER_NAME.test(user)) return undefined;
  const ask = async (option: string): Promise<number[]> => {
    const { stdout } = await promisify(execFile)(id, [option, user], { timeout: ID_MS_MAX, killSignal: 'SIGKILL' });
    return stdout
      .trim()
      .split(/\s+/)
      .flatMap((word) => numberOf(word) ?? []);
  };
  try {
    const [[uid], [gid], groups] = [await ask('-u'), await ask('-g'), await ask('-G')];
    return uid === undefined || gid === undefined ? undefined : { uid, gid, groups };
  } catch {
    return undefined; // It does not know the user, or is not there: the files count.
  }
};

const entriesOf = async (file: string): Promise<string[][]> =>
  (await readFile(file, 'utf8').catch(() => '')).split('\n').map((line) => line.split(':'));
const isNamed = (fields: string[], name: string): boolean => fields[0] === name || fields[2] === name;
const groupNamed = (all: string[][], name: string): number | undefined =>
  numberOf(all.find((fields) => isNamed(fields, name))?.[2] ?? name);
const isMember = (members: string | undefined, user: string | undefined): boolean =>
  user !== undefined && members !== undefined && members.split(',').includes(user);
const numberOf = (text: string | undefined): number | undefined =>
  text !== undefined && /^\d{1,10}$/.test(text) && Number(text) < 2 ** 32 - 1 ? Number(text) : undefined;
