/** What a device has done so far about its offer: the list that a person wants after a halt or an abort. */

import type { Did } from '#shared/deployment.ts';
import { unreachable } from '#shared/ids.ts';
import type { DeploymentRecord } from './deployment.ts';

/** A withdrawn one is told by how far it had come, one that is stuck by where. Of a silent one it is not known. */
export const deviceProgressOf = ({
  state,
  acceptedAt,
  reached,
  overdue,
}: Pick<DeploymentRecord, 'state' | 'acceptedAt' | 'reached'> & { overdue?: DeploymentRecord['overdue'] }): Did => {
  switch (state) {
    case 'planned':
      return 'nothing';
    case 'offered':
      return acceptedAt === null ? 'nothing' : 'accepted';
    case 'fetching':
      return 'fetching';
    case 'installing':
    case 'ready':
      return 'installed';
    case 'trial':
      return 'on-trial';
    case 'withdrawn':
      if (reached !== undefined && reached !== 'withdrawn' && reached !== 'overdue')
        return deviceProgressOf({ state: reached, acceptedAt });
      return acceptedAt === null ? 'nothing' : 'unknown';
    case 'overdue':
      if (overdue === 'stuck' && reached !== undefined) return deviceProgressOf({ state: reached, acceptedAt });
      return acceptedAt === null ? 'nothing' : 'unknown';
    case 'committed':
    case 'reverted':
    case 'failed':
    case 'skipped':
      return state;
    default:
      return unreachable(state);
  }
};
