/** A page of views: `next` is the key of the last item when the page is full, since there may be more. */
export const pageOf = <T, V>(
  items: T[],
  limit: number,
  keyOf: (item: T) => string,
  viewOf: (item: T) => V,
): { items: V[]; next: string | null } => {
  const last = items.at(-1);
  return {
    items: items.map(viewOf),
    next: last !== undefined && items.length === limit ? keyOf(last) : null,
  };
};
