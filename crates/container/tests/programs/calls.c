/* Makes one system call without arguments and prints what it returns:
 *   calls i386 NUMBER     by int 0x80, through the table of 32-bit programs
 *   calls native NUMBER   by the table of x86-64 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
	long result = argc == 3 ? atol(argv[2]) : -1;

	if (argc == 3 && strcmp(argv[1], "i386") == 0)
		asm volatile("int $0x80" : "+a"(result) : "b"(0), "c"(0), "d"(0) : "memory");
	else
		asm volatile("syscall" : "+a"(result) : "D"(0), "S"(0), "d"(0) : "rcx", "r11", "memory");
	printf("%d\n", (int)result);
	return 0;
}
