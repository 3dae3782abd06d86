/** Which permissions of a file or folder reach a device. */

/**
 * All of the owner's, and reading and executing for the others: 0600 stays 0600, 0750 stays 0750. That group or others
 * may write depends on the umask of the machine that built it, and is nothing that a device should have; set-user-id,
 * set-group-id and the sticky bit neither. The owner may always read it: an agent that is not root could not tell what
 * is in it otherwise.
 */
const KEPT = 0o755;
const ALWAYS = 0o400;

/** `lost` says what does not travel and was hardly meant by accident. */
export const keptMode = (mode: number): { mode: number; lost: string[] } => {
  const lost: string[] = [];
  if ((mode & 0o4000) !== 0) lost.push('the set-user-id bit');
  if ((mode & 0o2000) !== 0) lost.push('the set-group-id bit');
  if ((mode & 0o002) !== 0) lost.push('that everyone may write');
  return { mode: (mode & KEPT) | ALWAYS, lost };
};

/** What most files and folders have; a mode is written down only where it is another. */
export const usualMode = (executable: boolean): number => (executable ? 0o755 : 0o644);
