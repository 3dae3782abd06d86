/**
 * The gateway application: samples the machine that it runs on, remembers what it has sampled, and serves both over HTTP.
 *
 * - `GET /health`: 200 while all is well, 503 with the reason when not. This is what the agent asks during a trial.
 * - `GET /readings`: the last readings as JSON.
 * - `GET /metrics`: the newest reading in the Prometheus text format.
 *
 * The agent gives it `PORT`, and in `SLUICE_DATA` a folder that survives updates: the state of the version before is found there.
 */

import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { readSensors } from './sensors.mjs';

const READINGS_MAX = 120;
const SAMPLE_MS = 500;
const SAVE_EVERY_SAMPLES = 10;

/**
 * @param {object} options
 * @param {string} options.version
 * @param {string} [options.loadFile] where the load average is read
 * @param {number} [options.smoothing] average over so many readings
 * @param {() => string | undefined} [options.complaint] why this gateway is not well, if so
 */
export const startGateway = ({ version, loadFile = '/proc/loadavg', smoothing = 1, complaint = () => undefined }) => {
  const dataFolder = process.env.SLUICE_DATA ?? join(process.cwd(), 'data');
  mkdirSync(dataFolder, { recursive: true });
  const stateFile = join(dataFolder, 'gateway.json');
  const state = loadState(stateFile);
  state.starts += 1;
  state.versions = [...state.versions.filter((name) => name !== version), version].slice(-10);
  const readings = [];

  const sample = () => {
    readings.push({ at: Date.now(), ...readSensors(loadFile) });
    if (readings.length > READINGS_MAX) readings.shift();
    state.samples += 1;
    if (state.samples % SAVE_EVERY_SAMPLES === 0) saveState(stateFile, state);
  };
  sample();
  saveState(stateFile, state);
  const timer = setInterval(sample, SAMPLE_MS);

  const server = createServer((request, response) => {
    const answer = (status, type, body) => response.writeHead(status, { 'content-type': type }).end(body);
    const json = (status, value) => answer(status, 'application/json', `${JSON.stringify(value)}\n`);
    const current = smooth(readings.slice(-smoothing));
    if (request.url === '/health') {
      const wrong = complaint();
      json(wrong === undefined ? 200 : 503, { version, state: wrong === undefined ? 'well' : 'unwell', why: wrong });
    } else if (request.url === '/readings') json(200, { version, current, readings });
    else if (request.url === '/metrics') answer(200, 'text/plain; version=0.0.4', metrics(version, current, state));
    else if (request.url === '/') answer(200, 'text/plain', `gateway ${version}, started ${state.starts} times\n`);
    else json(404, { why: 'there is /, /health, /readings and /metrics' });
  });
  server.listen(Number(process.env.PORT ?? 8090), '127.0.0.1', () => {
    console.log(`gateway ${version} listens on ${server.address().port}`);
  });

  process.once('SIGTERM', () => {
    clearInterval(timer);
    saveState(stateFile, state);
    server.close(() => process.exit(0));
    server.closeAllConnections();
  });
};

const smooth = (readings) => {
  const newest = readings.at(-1);
  const average = (name) => readings.reduce((sum, reading) => sum + (reading[name] ?? 0), 0) / readings.length;
  const values = Object.keys(newest).filter((name) => name !== 'at');
  return { at: newest.at, ...Object.fromEntries(values.map((name) => [name, Number(average(name).toFixed(3))])) };
};

const metrics = (version, { at, ...values }, state) =>
  [
    `gateway_info{version="${version}"} 1`,
    `gateway_starts_total ${state.starts}`,
    `gateway_samples_total ${state.samples}`,
    `gateway_sampled_at_seconds ${at / 1000}`,
    ...Object.entries(values).map(([name, value]) => `gateway_${name} ${value}`),
    '',
  ].join('\n');

const loadState = (file) => {
  const empty = { starts: 0, samples: 0, versions: [] };
  try {
    return { ...empty, ...JSON.parse(readFileSync(file, 'utf8')) };
  } catch {
    return empty; // The first start, or a file that a power cut spoiled: the counts begin again.
  }
};

const saveState = (file, state) => {
  writeFileSync(`${file}.new`, JSON.stringify(state));
  renameSync(`${file}.new`, file);
};
