/** Whether the server is reachable, over HTTP and MQTT, whom this device trusts, and whether its clock is right. */

import { parseMqttUrl } from '#shared/mqtt-url.ts';
import type { AgentConfig } from '../config/config.ts';
import { BUILD_TIME } from '../config/version.ts';
import { errorCode } from '../process/system-error.ts';
import { readEnrolled, trustedRoot } from '../server/enrol.ts';
import { readKnownRoot } from '../server/known-root.ts';
import { connectOnce } from '../server/network.ts';
import { openProxies } from '../server/proxies.ts';
import { type ProxyFor, targetOf } from '../server/proxy.ts';
import { request } from '../server/request.ts';
import { openTunnel, ProxyFailed } from '../server/tunnel.ts';
import { doubtful, type Finding, good, unfit } from './finding.ts';

const ANSWER_MS_MAX = 10_000;
/** A login is good for five minutes; a device with another time learns the server's. */
const CLOCK_MS_MAX = 60_000;

export const examineServer = async (config: AgentConfig, now: () => number): Promise<Finding[]> => {
  const enrolled = await readEnrolled(config.dataDir, config).catch(() => undefined);
  const { proxyFor, problems } = openProxies(config, process.env);
  const { http, clock } = await examineHttp(config.serverUrl, proxyFor, now);
  const mqttUrl = config.mqttUrl ?? enrolled?.mqttUrl;
  return [
    http,
    clock,
    await examineMqtt(mqttUrl, proxyFor),
    ...problems.map((problem) => doubtful('proxy', problem, 'put the variable right, or set proxy')),
    examineTrust(config, await readKnownRoot(config.dataDir)),
  ];
};

const examineHttp = async (
  serverUrl: string,
  proxyFor: ProxyFor,
  now: () => number,
): Promise<{ http: Finding; clock: Finding }> => {
  const proxy = proxyFor(targetOf(new URL(serverUrl)));
  const way = proxy === null ? '' : ` through the proxy ${proxy.name}`;
  try {
    const asked = now();
    const answer = await request(`${serverUrl}/health`, {
      headers: {},
      signal: AbortSignal.timeout(ANSWER_MS_MAX),
      proxyFor,
    });
    await answer.body?.cancel();
    const http =
      answer.status < 400
        ? good('server', `${serverUrl} answers${way}`)
        : doubtful(
            'server',
            `${serverUrl} answers ${answer.status}`,
            'is it the right address, and is the server well?',
          );
    const encrypted = serverUrl.startsWith('https:') || /^http:\/\/(127\.|localhost|\[::1\])/.test(serverUrl);
    const open = doubtful(
      'server',
      `${serverUrl} answers, unencrypted`,
      'use https:// on every network but your own desk',
    );
    return {
      http: http.state === 'good' && !encrypted ? open : http,
      clock: clockOf(answer.headers.get('date'), asked),
    };
  } catch (error) {
    const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
    const why = errorCode(cause) || (cause instanceof Error ? cause.message : String(cause));
    const todo = /CERT|SELF_SIGNED|VERIFY/.test(why)
      ? 'its certificate is not trusted here: name its authority in NODE_EXTRA_CA_CERTS'
      : 'is serverUrl right? is there a network, a name server, a firewall?';
    return {
      http: unfit('server', `${serverUrl} cannot be reached${way} (${why})`, todo),
      clock: clockOf(null, now()),
    };
  }
};

const clockOf = (date: string | null, at: number): Finding => {
  const todo = 'let it be set by NTP; until then the agent goes by its server’s time where it may';
  const server = Date.parse(date ?? '');
  if (Number.isNaN(server)) {
    return at < BUILD_TIME
      ? doubtful('clock', `it is earlier than this agent was made: ${new Date(at).toISOString()}`, todo)
      : good('clock', `says ${new Date(at).toISOString()}; there is no server to compare with`);
  }
  const skewS = Math.round((at - server) / 1_000);
  return Math.abs(at - server) > CLOCK_MS_MAX
    ? doubtful('clock', `is ${Math.abs(skewS)} s ${skewS > 0 ? 'ahead of' : 'behind'} the server's`, todo)
    : good('clock', `agrees with the server's`);
};

/** Null: the one that was kept cannot be used. */
const examineMqtt = async (mqttUrl: string | null | undefined, proxyFor: ProxyFor): Promise<Finding> => {
  if (mqttUrl === undefined) return good('MQTT', 'the server says where, when this device enrols');
  const address = mqttUrl === null ? undefined : parseMqttUrl(mqttUrl);
  if (address === undefined)
    return doubtful(
      'MQTT',
      'the address that was kept cannot be used; the server is asked for it again',
      'set mqtt.publicUrl of the server, or mqttUrl here, to mqtts://host:port',
    );
  try {
    const proxy = proxyFor({ ...address, scheme: address.protocol });
    const limit = AbortSignal.timeout(ANSWER_MS_MAX);
    if (proxy === null) await connectOnce(address.host, address.port, limit);
    else (await openTunnel(proxy, address, limit)).destroy();
    return good('MQTT', `${mqttUrl} accepts connections${proxy === null ? '' : ` through the proxy ${proxy.name}`}`);
  } catch (error) {
    const why = error instanceof ProxyFailed ? error.message : errorCode(error) || 'no answer';
    const found = `${mqttUrl} cannot be reached (${why})`;
    return doubtful(
      'MQTT',
      found,
      'open the port, or set mqttUrl; meanwhile the agent asks over HTTP, and outcomes are not reported',
    );
  }
};

const examineTrust = (config: AgentConfig, known: string | undefined): Finding => {
  if (known !== undefined) return good('trust', 'this device is enrolled, and has its root of trust');
  const root = trustedRoot(config);
  if (!root.ok) return unfit('trust', root.detail, 'get a token with `sluice device token`');
  if (root.value === undefined)
    return doubtful(
      'trust',
      'whatever root the server shows first will be believed',
      'give an enrolment token, or trustRoot',
    );
  return config.token === undefined
    ? doubtful(
        'trust',
        'the root is known, but there is no token',
        'an operator has to accept this device: sluice device accept',
      )
    : good('trust', 'the enrolment token says whom to trust');
};
