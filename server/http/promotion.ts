import type { FastifyInstance } from 'fastify';
import { routes } from '#shared/api.ts';
import { releaseRef } from '#shared/ids.ts';
import { accept, type Result } from '#shared/problems.ts';
import { type RequirementsView } from '#shared/views.ts';
import type { Packs } from '../flow/release/packs.ts';
import { approveRelease, type Readiness, readinessOf, reportCheck } from '../flow/release/promote-release.ts';
import { promoteRelease } from '../flow/release/stage-release.ts';
import { handle } from './app.ts';
import { parseReleaseRef } from './releases.ts';
import { releaseView } from './views.ts';

type PromotionDeps = Parameters<typeof promoteRelease>[0] & { packs: Pick<Packs, 'wake'> };

export const promotionRoutes = (app: FastifyInstance, deps: PromotionDeps): void => {
  const show = async (ref: string): Promise<Result<RequirementsView>> => {
    const name = parseReleaseRef(ref);
    if (!name.ok) return name;
    const readiness = await readinessOf(deps, name.value);
    return readiness.ok ? accept(requirementsView(readiness.value)) : readiness;
  };

  handle(app, routes.releaseRequirements, async ({ params }) => show(params.release));
  handle(app, routes.releasePromote, async ({ params, body, who }) => {
    const name = parseReleaseRef(params.release);
    if (!name.ok) return name;
    const promoted = await promoteRelease(deps, { ...name.value, to: body.to, by: who.name });
    deps.packs.wake();
    return promoted.ok ? accept(releaseView(promoted.value)) : promoted;
  });
  handle(app, routes.releaseCheck, async ({ params, body, who }) => {
    const name = parseReleaseRef(params.release);
    if (!name.ok) return name;
    const { outcome, link = null } = body;
    const reported = await reportCheck(deps, { ...name.value, check: params.check, outcome, link, by: who.name });
    return reported.ok ? show(params.release) : reported;
  });
  handle(app, routes.releaseApprove, async ({ params, body, who }) => {
    const name = parseReleaseRef(params.release);
    if (!name.ok) return name;
    const approved = await approveRelease(deps, { ...name.value, ...body, by: who.name });
    return approved.ok ? show(params.release) : approved;
  });
};

const requirementsView = ({ release, channels, checks, approvals }: Readiness): RequirementsView => ({
  release: releaseRef(release.product, release.version),
  channels: channels.map((channel) => ({ ...channel, met: channel.requirements.every(({ met }) => met) })),
  checks: checks.map(({ check, outcome, link, at, by }) => ({ check, outcome, link, at, by })),
  approvals: approvals.map(({ channel, by, note, at }) => ({ channel, by, note, at })),
});
