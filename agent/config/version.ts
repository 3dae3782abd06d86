/** What this agent is. A test holds the version to package.json's. */
export const AGENT_VERSION = '0.2.0';
/** It is certainly later than this: a clock that says otherwise was never set. */
export const BUILD_TIME = Date.UTC(2026, 10, 1);
