/**
 * Makes calls wait for each other: each starts when the one before it has ended, well or badly. For state that must not
 * be changed by two at once.
 */
export const oneAtATime = (): (<T>(work: () => Promise<T>) => Promise<T>) => {
  let last: Promise<unknown> = Promise.resolve();
  return (work) => {
    const result = last.then(work);
    last = result.catch(() => undefined);
    return result;
  };
};
