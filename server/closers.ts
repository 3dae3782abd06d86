/** What is open, to be closed last first. One that fails does not keep the others open. */
export type Closers = { add(close: () => unknown): void; closeAll(failed: (error: unknown) => void): Promise<void> };

export const makeClosers = (): Closers => {
  const open: (() => unknown)[] = [];
  return {
    add: (close) => void open.push(close),
    async closeAll(failed) {
      for (let close = open.pop(); close !== undefined; close = open.pop()) {
        try {
          await close();
        } catch (error) {
          failed(error);
        }
      }
    },
  };
};
