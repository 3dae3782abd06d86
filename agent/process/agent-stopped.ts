/** Why an agent cannot run, in a sentence for people: a stack trace would explain nothing more. */
export class AgentStopped extends Error {
  override name = 'AgentStopped';
}
