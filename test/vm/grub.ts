/**
 * The boot partition: GRUB's script as docs/boot-selectors.md tells people to write it, and its environment as it
 * leaves the factory.
 */
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from './tools.ts';

const DOCUMENT = join(import.meta.dirname, '..', '..', 'docs', 'boot-selectors.md');
const FENCE = /```grub\n([\s\S]*?)```/g;

/** What is this machine's own: its console, which GRUB uses too, and what the kernel is told. */
const HEAD = `serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
echo "GRUB starts"
set kernel_options="console=ttyS0 quiet loglevel=4 panic=1 mitigations=off"
`;

export const makeBootFolder = async (work: string): Promise<string> => {
  const folder = join(work, 'boot');
  const grub = join(folder, 'grub');
  await mkdir(grub, { recursive: true });
  const scripts = [...(await readFile(DOCUMENT, 'utf8')).matchAll(FENCE)].map(([, script]) => script!);
  if (scripts.length !== 1) throw new Error(`${DOCUMENT} has ${scripts.length} scripts for GRUB, and should have one`);
  await writeFile(join(grub, 'grub.cfg'), HEAD + scripts[0]!);
  const environment = join(grub, 'grubenv');
  await run('grub-editenv', [environment, 'create']);
  await run('grub-editenv', [environment, 'set', 'ORDER=A', 'A_OK=1', 'A_TRY=0', 'B_OK=0', 'B_TRY=0']);
  await copyFile(environment, `${environment}.committed`);
  return folder;
};
