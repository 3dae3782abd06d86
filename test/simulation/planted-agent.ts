/** The planted bug between an agent and its connection. */
import type { Machine } from '#agent/deployment/machine.ts';
import type { Id } from '#shared/ids.ts';
import { type Ack, StateReport } from '#shared/messages.ts';
import type { Link } from './network.ts';

/**
 * Whatever carried a receipt of the same deployment counts as having carried the one that waits, which may be of a
 * later attempt.
 */
export const acknowledgedByDeployment = (link: Link, machine: () => Pick<Machine, 'memory' | 'send'>) => {
  const sent = new Map<number, Id | undefined>();
  const noted: Link = {
    ...link,
    publish: (channel, message) => {
      const report = channel === 'state' ? StateReport.parse(message) : undefined;
      if (report !== undefined && report.receipts.length > 0) sent.set(report.seq, report.deployment?.id);
      return link.publish(channel, message);
    },
  };
  const ack = ({ seq }: Ack): void => {
    const { install } = machine().memory();
    const carried = sent.get(seq);
    sent.delete(seq);
    if ('receipt' in install && install.receipt !== null && install.offer.install.deployment === carried)
      machine().send({ kind: 'acknowledged' });
  };
  return { link: noted, ack };
};
