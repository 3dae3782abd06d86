/** What may be asked of an agent's folder and configuration instead of running it, by `sluice agent` and by the agent's own program. */
import { unreachable } from '#shared/ids.ts';
import type { AgentConfig } from './config.ts';
import { examineDevice, fitnessText } from './fitness/fitness.ts';

export const QUESTIONS = ['check'] as const;
export type Question = (typeof QUESTIONS)[number];

/** Exit code 0: all is well; 1: it is not. */
export type Answer = { text: string; exitCode: 0 | 1 };

export const answerQuestion = async (question: Question, config: AgentConfig, asJson: boolean): Promise<Answer> => {
  switch (question) {
    case 'check': {
      const fitness = await examineDevice(config, Date.now);
      const text = asJson ? `${JSON.stringify(fitness)}\n` : fitnessText(fitness);
      return { text, exitCode: fitness.fit ? 0 : 1 };
    }
    default:
      return unreachable(question);
  }
};
