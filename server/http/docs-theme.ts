/** How the page at `/docs` looks: ours, like the one at `/`, with no one else's name or logo on it. */

/** A gate that lets a little through. */
const ICON =
  '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" fill="#0b5cad"/>' +
  '<path d="M9 6v20M23 6v20M9 10h14v8H9z" fill="none" stroke="#fff" stroke-width="3" stroke-linejoin="round"/>' +
  '<path d="M12 24q2-3 4 0t4 0" fill="none" stroke="#7ab8ff" stroke-width="2.5" stroke-linecap="round"/></svg>';

const CSS = `.swagger-ui,.swagger-ui .info .title,.swagger-ui .opblock-tag,.swagger-ui .info p,.swagger-ui .info a
{font-family:system-ui,sans-serif}
.swagger-ui .wrapper{max-width:72rem}
.swagger-ui .info{margin:3rem 0 2rem}
.swagger-ui .info .title{letter-spacing:-.02em}
.swagger-ui .info a{color:#0b5cad}
.swagger-ui .scheme-container{background:none;box-shadow:none;padding:0 0 1rem}
`;

export const DOCS_THEME = {
  title: 'Sluice API',
  css: [{ filename: 'sluice.css', content: CSS }],
  favicon: [{ filename: 'icon.svg', rel: 'icon', type: 'image/svg+xml', sizes: 'any', content: ICON }],
};
