/** What an installer has left on the disk, read back past the page cache where that is possible (faults 15). */
import { openStoredReader } from '#agent/disk/read-back.ts';
import type { SlotResult } from '#agent/domain/slots.ts';
import { storageRefusal } from '#agent/process/system-error.ts';
import { DONE, refuse } from '../image-pair.ts';
import type { ImageRecord } from '../image-record.ts';

export const compareStored = async (
  { artifact, stored }: Pick<ImageRecord, 'artifact' | 'stored'>,
  signal?: AbortSignal,
): Promise<SlotResult> => {
  const reader = openStoredReader();
  for (const { file, bytes, sha256 } of stored ?? []) {
    try {
      const there = await reader.hash(file, bytes, signal);
      if (there.bytes !== bytes || there.sha256 !== sha256)
        return refuse(`${file} does not hold what was installed from ${artifact.name}`, 'WRITE_VERIFY');
    } catch (error) {
      if (signal?.aborted === true) return refuse('stopped', 'WRITE_VERIFY');
      return { ...storageRefusal(error, `${file} cannot be read`), code: 'WRITE_VERIFY' };
    }
  }
  return DONE;
};
