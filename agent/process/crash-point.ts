/**
 * Where tests cut the power: ends this very process with SIGKILL when `SLUICE_AGENT_KILL_AT` equals `name`. A name says
 * what has just become durable, such as `slots.activate.written`. Without the variable it does nothing.
 */
export const crashPoint = (name: string): void => {
  if (process.env['SLUICE_AGENT_KILL_AT'] === name) process.kill(process.pid, 'SIGKILL');
};
