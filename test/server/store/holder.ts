/** A process that takes the lock on a data folder, says so, and keeps it until it is killed. Run by lock.test.ts. */
import { lockDataFolder } from '#server/store/lock.ts';

console.log(lockDataFolder(process.argv[2]!).ok ? 'held' : 'refused');
setInterval(() => undefined, 1000);
