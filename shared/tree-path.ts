/**
 * Which paths and symbolic links a tree may hold: asked when a bundle is made, and again by the device that unpacks it.
 */

const PATH_BYTES_MAX = 4096;
const NAME_BYTES_MAX = 255;
/** U+FFFD is what a name that is not UTF-8 is read as. */
const FORBIDDEN = /[\p{Cc}\\\uFFFD]/u;
/** Counted in UTF-8, without what only Node has. */
const byteLength = (text: string): number => new TextEncoder().encode(text).length;

/**
 * What is wrong with a path, as the end of a sentence about it; undefined when it may be written: relative, each part a
 * plain name.
 */
export const pathFault = (path: string): string | undefined => {
  if (byteLength(path) > PATH_BYTES_MAX) return `is longer than ${PATH_BYTES_MAX} bytes`;
  if (FORBIDDEN.test(path)) return 'has a backslash, a control character, or bytes that are not UTF-8';
  const parts = path.split('/');
  if (parts.some((part) => part === '' || part === '.' || part === '..')) return 'is not a plain relative path';
  return parts.some((part) => byteLength(part) > NAME_BYTES_MAX)
    ? `has a name longer than ${NAME_BYTES_MAX} bytes`
    : undefined;
};

/**
 * What is wrong with a symbolic link at `path`, likewise. It may climb first and then only descend, and not above the
 * root. Since no folder on the way to a link is itself a link, and `..` never follows a name (which could be a link
 * elsewhere), no chain of links leaves the root.
 */
export const linkFault = (path: string, to: string): string | undefined => {
  if (to === '') return 'is empty';
  if (to.startsWith('/')) return 'is absolute';
  if (byteLength(to) > PATH_BYTES_MAX) return `is longer than ${PATH_BYTES_MAX} bytes`;
  if (FORBIDDEN.test(to)) return 'has a backslash, a control character, or bytes that are not UTF-8';
  const parts = to.split('/').filter((part) => part !== '' && part !== '.');
  const descends = parts.findIndex((part) => part !== '..');
  const up = descends === -1 ? parts.length : descends;
  if (up > path.split('/').length - 1) return 'leaves the tree';
  return parts.slice(up).includes('..') ? 'goes down and up again (".." after a name)' : undefined;
};
