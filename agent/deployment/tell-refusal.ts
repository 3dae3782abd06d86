/** Where MQTT does not get through, the server hears over HTTP why the device does not act on what it is told. */
import { deviceRoutes } from '#shared/device-api.ts';
import type { Http } from '../server/http.ts';
import type { Refusal } from './desired.ts';

/** Once for each change; the first time always, since an earlier life may have told something else. */
export const tellingRefusal = (
  http: Pick<Http, 'postOwn'>,
  refusal: () => Pick<Refusal, 'code'> | null,
): ((signal: AbortSignal) => Promise<void>) => {
  let told: string | null | undefined;
  return async (signal) => {
    const code = refusal()?.code ?? null;
    if (code === told) return;
    const { path, answer } = deviceRoutes.refusal;
    const said = await http.postOwn(path, { code }, answer, signal);
    // A server that does not know the question is not asked again.
    if (said.ok || said.answered) told = code;
  };
};
