/** What this machine can tell about itself. Linux files where there are any, else what Node knows. */
import { existsSync, readFileSync } from 'node:fs';
import { freemem, loadavg } from 'node:os';

const THERMAL_FILE = '/sys/class/thermal/thermal_zone0/temp';

/** @param {string} loadFile throws when it is named but not there: a gateway without its sensor must not pretend */
export const readSensors = (loadFile) => ({
  load:
    loadFile === '/proc/loadavg' && !existsSync(loadFile)
      ? loadavg()[0]
      : Number.parseFloat(readFileSync(loadFile, 'utf8')),
  memory_free_bytes: freemem(),
  uptime_seconds: Math.round(process.uptime()),
  ...readTemperature(),
});

const readTemperature = () => {
  try {
    return { temperature_celsius: Number.parseInt(readFileSync(THERMAL_FILE, 'utf8'), 10) / 1000 };
  } catch {
    return {}; // Virtual machines have none.
  }
};
