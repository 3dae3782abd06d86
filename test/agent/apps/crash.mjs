/** Says something, then ends with code 3. */
console.log('about to crash');
console.error('crashed');
process.exitCode = 3;
