/** What lies in the data folder: keys, TUF metadata, the database, and the files of releases. */
import type { Closers } from './closers.ts';
import { inDataFolder, takeDataFolder, writeAdminToken } from './data-folder.ts';
import { auditLine, BY_SERVER } from './domain/audit.ts';
import { ensureAdministrator } from './flow/operators.ts';
import { reconcileDelegations } from './flow/release/create-product.ts';
import { cannotStart } from './start-failure.ts';
import { type Objects, openObjects } from './store/objects.ts';
import { openSqliteStore } from './store/sqlite/open.ts';
import type { Store } from './store/store.ts';
import { type Keyring, openKeyring } from './trust/keyring.ts';
import { openRepository, type Repository } from './trust/repository.ts';

export type Data = {
  keyring: Keyring;
  repository: Repository;
  store: Store;
  objects: Objects;
  /** The administrator's token when it was made just now. */
  adminToken: string | null;
};

/** Takes the folder for this process. */
export const openData = async (dir: string, now: () => number, closers: Closers): Promise<Data> => {
  const folder = inDataFolder(dir);
  const lock = takeDataFolder(dir);
  closers.add(() => lock.release());
  const keyring = await openKeyring(folder.keys).catch(cannotStart('the keys cannot be used'));
  const repository = await openRepository({ dir: folder.repository, keyring, now }).catch(
    cannotStart(`the metadata in ${folder.repository} cannot be used`),
  );
  const store = await openSqliteStore(folder.database).catch(cannotStart(folder.database));
  closers.add(() => store.close());
  const objects = await openObjects(dir).catch(cannotStart('the files of releases cannot be kept'));
  const adminToken = await initialise(dir, { store, repository, now });
  return { keyring, repository, store, objects, adminToken };
};

/** What the first start does, and what a crash in the middle of something left to do. */
const initialise = async (
  dir: string,
  { store, repository, now }: { store: Store; repository: Repository; now: () => number },
): Promise<string | null> => {
  if ((await store.getAuditHead()).size === 0) {
    const { rootSha256 } = repository;
    await store.appendAudit([auditLine({ at: now(), by: BY_SERVER, kind: 'server-initialised', rootSha256 })]);
  }
  await reconcileDelegations({ store, repository });
  const adminToken = await ensureAdministrator({ store, now });
  if (adminToken !== null) await writeAdminToken(dir, adminToken);
  return adminToken;
};
