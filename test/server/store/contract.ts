/** What every engine must do. A new engine calls `describeStore` with a way to open an empty store. */
import { describe } from 'vitest';
import type { Store } from '#server/store/store.ts';
import { describeAudit } from './contract-audit.ts';
import { describeCatalogue } from './contract-catalogue.ts';
import { describeDecisions } from './contract-decisions.ts';
import { describeDeployments } from './contract-deployments.ts';
import { describeDeviceLogs } from './contract-device-logs.ts';
import { describeDevices } from './contract-devices.ts';
import { describeIngest } from './contract-ingest.ts';
import { describeOffers } from './contract-offers.ts';
import { describeOverdue } from './contract-overdue.ts';
import { describeRecalls } from './contract-recalls.ts';
import { describeRestore } from './contract-restore.ts';
import { describeSteering } from './contract-steering.ts';
import { describeTakeover } from './contract-takeover.ts';
import { describeTransfer } from './contract-transfer.ts';
import { describeWatch } from './contract-watch.ts';
import { describeWithdrawals } from './contract-withdrawals.ts';

/** Opens an empty store; the suite closes it. */
export type OpenStore = () => Promise<Store>;

export const describeStore = (name: string, open: OpenStore): void => {
  describe(`store: ${name}`, () => {
    describeCatalogue(open);
    describeDevices(open);
    describeDeviceLogs(open);
    describeOffers(open);
    describeWithdrawals(open);
    describeIngest(open);
    describeDeployments(open);
    describeDecisions(open);
    describeAudit(open);
    describeOverdue(open);
    describeRestore(open);
    describeSteering(open);
    describeTakeover(open);
    describeTransfer(open);
    describeWatch(open);
    describeRecalls(open);
  });
};
