/** A well-behaved application: answers on PORT with what it is, says so on stdout, and ends at SIGTERM. */
import { createServer } from 'node:http';

const server = createServer((request, response) => {
  response.statusCode = request.url === '/sick' ? 500 : 200;
  response.end(JSON.stringify({ version: process.env.SLUICE_VERSION, node: process.version, cwd: process.cwd() }));
});
server.listen(Number(process.env.PORT), '127.0.0.1', () => console.log('ready'));
process.on('SIGTERM', () => {
  console.log('ending');
  process.exit(0);
});
