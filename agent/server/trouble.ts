/** What keeps the device from its server: shown to people on the device, since the server cannot be told. */

/** From the outside to the inside: the first that is known is what has to be mended first. */
const KINDS = ['enrolment', 'http', 'mqtt'] as const;
type Kind = (typeof KINDS)[number];
export type Trouble = { kind: Kind; message: string };

export type Troubles = {
  set(kind: Kind, message: string | null): void;
  now(): Trouble | null;
};

export const openTroubles = (changed: () => void): Troubles => {
  const known = new Map<Kind, string>();
  return {
    set: (kind, message) => {
      if ((known.get(kind) ?? null) === message) return;
      if (message === null) known.delete(kind);
      else known.set(kind, message);
      changed();
    },
    now: () => {
      for (const kind of KINDS) {
        const message = known.get(kind);
        if (message !== undefined) return { kind, message };
      }
      return null;
    },
  };
};
