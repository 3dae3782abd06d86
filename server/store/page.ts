/**
 * How lists are read: bounded (a page has at most 10,000 entries, more throws a `RangeError`) and paged by `after`
 * (exclusive), which names the last entry of the page before: by name or id where the list is in that order,
 * `product@version` for releases, the id for rollouts (both newest first) and deployments (in the order in which they
 * were planned).
 */
export type Page = { after?: string | undefined; limit: number };
